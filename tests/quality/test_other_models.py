"""The paper's pipelines, tiny and with random weights: the same evaluation, its baselines, and an upscaler."""

import numpy as np
import pytest
import torch

import entropylab
import tables
from entropylab import EntropyLabError
from entropylab.quality.clip import Clip, EmbeddedClip
from entropylab.quality.methods import Resized, through_upscaler
from shared import Source

from ..zoo.unet_parts import text_encoder, tokenizer, unet, vae
from ..zoo.unets import build_ldm, build_stable

PROMPTS = ["a red car", "a blue house"]


def stable():
    """Stable Diffusion with a tokenizer and a text encoder, trained at 64x64 as far as its config says."""
    pipe = build_stable(cross_attention_dim=128)
    pipe.register_modules(vae=vae(), tokenizer=tokenizer(), text_encoder=text_encoder())
    return pipe


def source_of(pipe, **options):
    source = Source(progress=False, **options)
    source.pipe = pipe
    return source


class Colours(torch.nn.Module):
    """Three features: the mean colours."""

    name, num_features = "mean colours", 3

    def forward(self, images):
        return images.float().mean((-2, -1)) / 255


def options():
    both = EmbeddedClip()
    return {
        "features": Colours(),
        "clip": Clip("some model", both, both),
        "reference": np.random.default_rng(0).random((40, 3)),
        "resamples": 5,
    }


@pytest.mark.parametrize(("build", "baselines"), [(stable, ("resize", "multidiffusion")), (build_ldm, ("resize",))])
def test_the_tables_of_the_papers_pipelines(build, baselines, tmp_path):
    """Every rule and baseline at a lower, the training, a higher and an oblong size, and the tables from it."""
    rules = ("original", "sqrt_log", "invariant", "calibrated", *baselines)
    source = source_of(build(), samples=8, steps=1)
    sizes = [32, 64, 96, (48, 64)]
    ds = tables.measure(source, sizes=sizes, scaling=rules, prompts=PROMPTS, pictures=tmp_path, **options())
    assert list(ds["size"].values) == ["32x32", "64x64", "96x96", "48x64"]
    for figure in ("fid", "clip_score", "coverage", "excess_agreement", "time", "memory"):
        known = ds[figure].notnull()
        assert bool(known.sel(scaling=[rule for rule in rules if rule != "multidiffusion"]).all())
        if "multidiffusion" in rules:
            assert list(known.sel(scaling="multidiffusion").values) == [False, True, True, False]
    tables.draw(ds, tmp_path)
    assert "mean colours. Not comparable" in (tmp_path / "table1.md").read_text()
    assert len(list((tmp_path / "96x96" / "sqrt_log").glob("*.png"))) == 8


def test_latent_diffusion_has_no_multidiffusion():
    with pytest.raises(EntropyLabError, match="needs the parts of a StableDiffusionPipeline"):
        entropylab.evaluate(build_ldm(), [64], "multidiffusion", prompts=PROMPTS, samples=8, **options())


def test_steps_are_the_pipelines_own_unless_told(monkeypatch):
    seen = []
    monkeypatch.setattr("entropylab.evaluate", lambda *_, **words: seen.append(words), raising=False)
    for steps in (None, 3):
        source = source_of(build_ldm(), steps=steps)
        tables.measure(source, sizes=[64], scaling=["original"], prompts=PROMPTS)
    assert [words["steps"] for words in seen] == [None, 3]
    assert seen[0]["samples"] is None, "as many as a distance in its features needs"


def upscaler():
    """Diffusers' latent upscaler, which doubles the sides."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionLatentUpscalePipeline

    wide = unet(in_channels=8, out_channels=5, cross_attention_dim=128, time_cond_proj_dim=2 * 128)
    return StableDiffusionLatentUpscalePipeline(
        vae=vae(), text_encoder=text_encoder(), tokenizer=tokenizer(), unet=wide,
        scheduler=EulerDiscreteScheduler(prediction_type="sample"),
    )  # fmt: skip


def test_diffusers_latent_upscaler_takes_over():
    taken = through_upscaler(upscaler(), num_inference_steps=1)
    method = Resized(taken, name="upscaler")
    ds = entropylab.evaluate(
        stable(), [128], ("sqrt_log", method), prompts=PROMPTS, samples=8, steps=1, progress=False, **options(),
        metrics=("fid", "time"),
    )  # fmt: skip
    assert list(ds.scaling.values) == ["sqrt_log", "upscaler"]
    assert bool(ds.fid.notnull().all()) and float(ds.fid[0, 0]) != float(ds.fid[0, 1])
    assert "StableDiffusionLatentUpscalePipeline num_inference_steps=1" in str(taken)
