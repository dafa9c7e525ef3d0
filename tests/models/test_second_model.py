"""The second embedded pipeline, ``load("emoji-joint")``: a transformer with joint attention of image and text."""

import socket

import pytest
import torch
from safetensors.torch import load_file

import entropylab
from entropylab import EntropyLabError
from entropylab.models.prompts import JOINT_FOLDER, default_settings, embedded_prompts

from ..seeds import generators
from ..zoo.check import examine
from ..zoo.family import Family, first

JointPipeline = pytest.importorskip("entropylab.models.joint", exc_type=ImportError).JointPipeline

PROMPTS = ["a red heart", "a blue heart"]


@pytest.fixture(scope="module")
def pipe() -> JointPipeline:
    """The second embedded pipeline. Tests must leave it as it was."""
    return load()


def load() -> JointPipeline:
    found = entropylab.load("emoji-joint", device="cpu")
    found.set_progress_bar_config(disable=True)
    return found


def sample(pipe, prompts=PROMPTS, seed=0, **options) -> torch.Tensor:
    settings = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "pt"}
    return pipe(prompts, generator=generators(len(prompts), seed), **settings | options).images


def test_it_is_small_borrows_the_autoencoder_and_loads_without_a_network(monkeypatch, caplog, embedded):
    files = [path for path in JOINT_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert {path.suffix for path in files} == {".safetensors", ".json", ".txt"}
    assert not (JOINT_FOLDER / "vae").exists()
    weights = [load_file(path) for path in files if path.suffix == ".safetensors"]
    assert {value.dtype for part in weights for value in part.values()} == {torch.float16}

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    double = entropylab.load("emoji-joint", dtype="float64", device="cpu")
    assert isinstance(double, JointPipeline)
    parts = (double.transformer, double.vae, double.text_encoder, double.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.float64}
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    first, second = embedded.vae.state_dict(), double.vae.state_dict()
    assert all(torch.equal(first[name].double(), second[name]) for name in first)


def test_seeds_prompts_and_rules_decide_also_of_what_was_saved(pipe, tmp_path):
    wanted, large = sample(pipe), sample(pipe, height=96, width=96)
    assert torch.equal(sample(pipe), wanted)
    assert not torch.equal(sample(pipe, seed=1), wanted)
    assert not torch.equal(sample(pipe, ["a red heart", "a red car"])[1], wanted[1])
    with entropylab.rescale(pipe):
        assert torch.equal(sample(pipe), wanted), "the training size is left as it is"
        assert not torch.equal(sample(pipe, height=96, width=96), large)
    pipe.save_pretrained(tmp_path)
    for copy in (JointPipeline.from_pretrained(tmp_path), entropylab.load(tmp_path, device="cpu")):
        copy.set_progress_bar_config(disable=True)
        assert torch.equal(sample(copy), wanted)
    with pytest.raises(EntropyLabError, match="prompts must be given"):  # a caller's folder is no embedded pipeline
        entropylab.measure(copy, [32], progress=False)


def test_it_draws_what_the_prompt_says(pipe):
    """A red heart is red where a blue heart is blue, on a background that is neither."""
    images = sample(pipe, num_inference_steps=10)
    red, blue = images[:, :, 24:40, 24:40].mean((2, 3))
    assert red[0] > red[2] + 0.3
    assert blue[2] > blue[0] + 0.3
    corners = images[:, :, :2, :2].mean((2, 3))
    assert (corners.amax(1) - corners.amin(1)).max() < 0.3


def test_guidance_leads_away_from_the_empty_prompt(pipe):
    options = {"num_inference_steps": 1, "output_type": "latent"}
    plain, twice = (sample(pipe, guidance_scale=scale, **options) for scale in (1.0, 2.0))
    without = sample(pipe, ["", ""], guidance_scale=1.0, **options)
    torch.testing.assert_close(twice, without + 2 * (plain - without), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(twice, plain, atol=1e-2)


def test_it_is_measured_as_joint_attention_of_64_image_and_24_text_tokens(pipe):
    ds = entropylab.measure(pipe, [32, 64, (48, 96)], samples=2, steps=2, progress=False)
    assert ds.attrs["model"] == "emoji-joint"
    assert list(ds.prompt.values) == embedded_prompts()[:2]
    assert default_settings(pipe) == {"num_inference_steps": 20, "guidance_scale": 3.0}
    assert set(ds.branch.values) == {"cond", "uncond"}
    assert set(ds.kind.values) == {"joint"}
    assert len(set(ds.module.values)) == 7
    assert [set(row) for row in ds.tokens.values] == [{16 + 24}, {64 + 24}, {72 + 24}]
    assert set(ds.train_tokens.values) == {64 + 24}
    images = ds.entropy.sel(layer=ds.part == "image").mean(("scaling", "branch", "sample", "step", "layer", "head"))
    assert bool((images.diff("size") > 0).all())


def test_entropies_are_those_of_float64_maps():
    size = (48, 96)
    family = Family(
        "second embedded", "JointPipeline", load, lambda pipe: sample(pipe, height=size[0], width=size[1]), size,
        parts=first(24),
    )  # fmt: skip
    finding = examine(family)
    assert finding.identical
    assert (finding.unlisted, finding.unmeasured, finding.unchecked) == ([], {}, [])
    assert len(finding.errors) == 7 * 2
    assert finding.worst < 1e-4
