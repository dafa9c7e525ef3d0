"""The paper's pipelines, tiny and with random weights: the same evaluation, its baselines, and an upscaler."""

import numpy as np
import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.quality.clip import EmbeddedClip
from entropylab.quality.methods import Resized

from ..runs.stub import Brightness
from ..zoo.unet_parts import text_encoder, tokenizer, unet, vae
from ..zoo.unets import build_ldm, build_stable

PROMPTS = ["a red car", "a blue house"]


def stable():
    """Stable Diffusion with a tokenizer and a text encoder, trained at 64x64 as far as its config says."""
    pipe = build_stable(cross_attention_dim=128)
    pipe.register_modules(vae=vae(), tokenizer=tokenizer(), text_encoder=text_encoder())
    return pipe


def options(count=8):
    reference = np.random.default_rng(0).random((40, 3))
    known = {"features": Brightness(), "clip": EmbeddedClip(), "reference": reference, "resamples": 5}
    return known | {"prompts": PROMPTS, "samples": count, "steps": 1, "progress": False}


def test_a_pipeline_of_the_paper_is_judged(tmp_path):
    """Rules and baselines at a lower and at an oblong higher size, in every figure that the tables hold."""
    rules, metrics = ("sqrt_log", "resize", "multidiffusion"), ("fid", "clip", "diversity", "defects", "time", "memory")
    ds = entropylab.evaluate(stable(), [32, (64, 72)], rules, metrics=metrics, pictures=tmp_path, **options())
    assert list(ds["size"].values) == ["32x32", "64x72"]
    for figure in ("fid", "clip_score", "coverage", "excess_agreement", "time", "memory"):
        known = ds[figure].notnull()
        assert bool(known.sel(scaling=["sqrt_log", "resize"]).all())
        assert list(known.sel(scaling="multidiffusion").values) == [False, True]
    assert (ds.attrs["features"], ds.attrs["comparable_with_published_fid"]) == ("brightness", 0)
    assert len(list((tmp_path / "64x72" / "sqrt_log").glob("*.png"))) == 8
    with pytest.raises(EntropyLabError, match="needs the parts of a StableDiffusionPipeline"):
        entropylab.evaluate(build_ldm(), [64], "multidiffusion", **options())


def upscaler():
    """Diffusers' latent upscaler, which doubles the sides."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionLatentUpscalePipeline

    wide = unet(in_channels=8, out_channels=5, cross_attention_dim=128, time_cond_proj_dim=2 * 128)
    return StableDiffusionLatentUpscalePipeline(
        vae=vae(), text_encoder=text_encoder(), tokenizer=tokenizer(), unet=wide,
        scheduler=EulerDiscreteScheduler(prediction_type="sample"),
    )  # fmt: skip


def test_diffusers_latent_upscaler_takes_over():
    pipe = upscaler()

    def larger(images, size, prompts, generators):
        settings = {"num_inference_steps": 1, "output_type": "np"}
        return pipe(prompt=prompts, image=images.float() / 255, generator=generators, **settings).images

    rules = ("sqrt_log", Resized(larger, name="upscaler"))
    ds = entropylab.evaluate(stable(), [128], rules, metrics=("fid", "time"), **{**options(), "clip": None})
    assert list(ds.scaling.values) == ["sqrt_log", "upscaler"]
    assert bool(ds.fid.notnull().all()) and float(ds.fid[0, 0]) != float(ds.fid[0, 1])
