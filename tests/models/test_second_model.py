"""The second embedded pipeline, ``load("emoji-dit")``: a diffusion transformer for any size."""

import json
import socket

import pytest
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from safetensors.torch import load_file

import entropylab
from entropylab import EntropyLabError
from entropylab.models.prompts import FOLDER, TRANSFORMER_FOLDER, captions, default_settings, embedded_prompts
from entropylab.models.transformer import LabelPipeline

from ..seeds import generators
from ..zoo.check import examine
from ..zoo.family import Family

PROMPTS = ["a red heart", "a blue heart"]


@pytest.fixture(scope="module")
def pipe() -> LabelPipeline:
    """The second embedded pipeline. Tests must leave it as it was."""
    return load()


def load() -> LabelPipeline:
    found = entropylab.load("emoji-dit", device="cpu")
    found.set_progress_bar_config(disable=True)
    return found


def sample(pipe, prompts=PROMPTS, seed=0, **options) -> torch.Tensor:
    settings = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "pt"}
    return pipe(prompts, generator=generators(len(prompts), seed), **settings | options).images


def test_it_is_small_and_borrows_the_autoencoder():
    files = [path for path in TRANSFORMER_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4e6
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert not (TRANSFORMER_FOLDER / "vae").exists()
    (weights,) = (path for path in files if path.suffix == ".safetensors")
    assert {value.dtype for value in load_file(weights).values()} == {torch.float16}
    index = json.loads((TRANSFORMER_FOLDER / "model_index.json").read_text(encoding="utf-8"))
    assert index["transformer"] == ["entropylab.models.transformer", "AnySizeTransformer"]
    assert index["id2label"] == {str(label): caption for label, caption in enumerate(captions().values())}


def test_it_loads_without_a_network_in_one_dtype(monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    double = entropylab.load("emoji-dit", dtype="float64", device="cpu")
    assert isinstance(double, LabelPipeline)
    assert {double.transformer.dtype, double.vae.dtype} == {torch.float64}
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_it_has_the_first_models_autoencoder(pipe, embedded):
    assert {pipe.transformer.dtype, pipe.vae.dtype} == {torch.float32}
    first, second = embedded.vae.state_dict(), pipe.vae.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_save_pretrained_writes_what_from_pretrained_and_load_read(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    wanted = sample(pipe)
    for copy in (LabelPipeline.from_pretrained(tmp_path), entropylab.load(tmp_path, device="cpu")):
        copy.set_progress_bar_config(disable=True)
        assert copy.labels == pipe.labels
        assert torch.equal(sample(copy), wanted)


def test_seeds_and_classes_decide(pipe):
    wanted = sample(pipe)
    assert torch.equal(sample(pipe), wanted)
    assert not torch.equal(sample(pipe, seed=1), wanted)
    assert not torch.equal(sample(pipe, ["a red heart", "a red car"])[1], wanted[1])


def test_it_draws_what_the_prompt_says(pipe):
    """A red heart is red where a blue heart is blue, on white, at the training size."""
    images = sample(pipe, num_inference_steps=10)
    red, blue = images[:, :, 24:40, 24:40].mean((2, 3))
    assert red[0] > red[2] + 0.3
    assert blue[2] > blue[0] + 0.3
    assert images[:, :, :2, :2].min() > 0.85


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128), (96, 48), (40, 72)])
def test_it_samples_any_size(pipe, size):
    image = pipe("a red heart", height=size[0], width=size[1], num_inference_steps=1).images[0]
    assert image.size == (size[1], size[0])


def test_of_squares_it_is_the_transformer_of_diffusers(pipe):
    own = DiTTransformer2DModel.from_config(dict(pipe.transformer.config)).eval()
    own.load_state_dict(pipe.transformer.state_dict())
    inputs = torch.randn(2, 4, 24, 24), torch.tensor([5, 900]), torch.tensor([3, 172])
    with torch.no_grad():
        assert torch.equal(pipe.transformer(*inputs).sample, own(*inputs).sample)
        assert torch.equal(pipe.transformer(*inputs, return_dict=False)[0], own(*inputs).sample)
        with pytest.raises(RuntimeError):
            own(torch.randn(2, 4, 16, 24), *inputs[1:])


def test_every_patch_has_its_place(pipe):
    patches = []
    hook = pipe.transformer.proj_out_2.register_forward_hook(lambda module, args, output: patches.append(output))
    with hook, torch.no_grad():
        output = pipe.transformer(torch.randn(1, 4, 8, 12), torch.tensor([500]), torch.tensor([0])).sample
    for token, values in enumerate(patches[0][0]):
        row, column = divmod(token, 6)
        found = output[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(found, values.view(2, 2, 4).permute(2, 0, 1))


def test_without_guidance_it_samples_as_the_pipeline_of_diffusers(pipe):
    own = DiTPipeline(pipe.transformer, pipe.vae, pipe.scheduler)
    own.set_progress_bar_config(disable=True)
    labels = [pipe.labels[prompt] for prompt in PROMPTS]
    wanted = own(labels, guidance_scale=1.0, generator=generators(2), num_inference_steps=3, output_type="pt").images
    if not isinstance(wanted, torch.Tensor):  # older diffusers gives arrays, channels last, whatever is asked
        wanted = torch.from_numpy(wanted).permute(0, 3, 1, 2)
    assert torch.equal(sample(pipe, guidance_scale=1.0, num_inference_steps=3), wanted)


def test_guidance_leads_away_from_no_class(pipe):
    options = {"num_inference_steps": 1, "output_type": "latent"}
    plain, twice = (sample(pipe, guidance_scale=scale, **options) for scale in (1.0, 2.0))
    without = sample(pipe, ["", ""], guidance_scale=5.0, **options)
    torch.testing.assert_close(twice, without + 2 * (plain - without), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(twice, plain, atol=1e-2)


BAD = [
    ({"prompts": ["a red heart", "a zebu"]}, "prompt must be the name of a class.*Got 'a zebu'"),
    ({"height": 60}, "multiples of 8 pixels. Got 60 and 64"),
    ({"width": 0}, "multiples of 8 pixels. Got 64 and 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_what_it_cannot_sample(pipe, options, message):
    with pytest.raises(EntropyLabError, match=message):
        sample(pipe, **options)


def test_it_is_measured_as_the_first_is(pipe):
    ds = entropylab.measure(pipe, [32, 64, (48, 96)], samples=2, steps=2, progress=False)
    assert ds.attrs["model"] == "emoji-dit"
    assert list(ds.prompt.values) == embedded_prompts()[:2]
    assert set(embedded_prompts()) <= set(pipe.labels)
    assert default_settings(pipe) == {"num_inference_steps": 20, "guidance_scale": 3.0}
    assert set(ds.branch.values) == {"cond", "uncond"}
    assert set(ds.kind.values) == {"self"}
    assert ds.tokens.values.tolist() == [[16] * 5, [64] * 5, [72] * 5]
    assert set(ds.train_tokens.values) == {64}
    means = ds.entropy.mean(("scaling", "branch", "sample", "step", "head"))
    assert bool((means.diff("size") > 0).all())


def test_entropies_are_those_of_float64_maps():
    size = (48, 96)
    family = Family(
        "second embedded", "LabelPipeline", load, lambda pipe: sample(pipe, height=size[0], width=size[1]), size
    )
    finding = examine(family)
    assert finding.identical
    assert (finding.unlisted, finding.unmeasured, finding.unchecked) == ([], {}, [])
    assert len(finding.errors) == 5
    assert finding.worst < 1e-4


def test_rescaling_changes_other_sizes_than_the_training_size(pipe):
    before = [sample(pipe, height=side, width=side) for side in (64, 96)]
    with entropylab.rescale(pipe):
        after = [sample(pipe, height=side, width=side) for side in (64, 96)]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_a_folder_named_by_the_caller_is_no_embedded_pipeline(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(EntropyLabError, match="prompts must be given"):
        entropylab.measure(entropylab.load(tmp_path, device="cpu"), [32], progress=False)
    assert FOLDER != TRANSFORMER_FOLDER
