"""Pipelines that tests share: the embedded one, and a small random one whose attention is far from uniform."""

import copy
import gc
import os
from functools import cache, wraps

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

import entropylab
from recipes.text import WIDTH, new_text_encoder, new_tokenizer

# Helpers that assert say as much as tests do.
pytest.register_assert_rewrite(
    *(f"tests.{name}" for name in ("capture", "command_line", "entropy", "pipelines", "reporting", "runs"))
)


def pytest_configure(config: pytest.Config) -> None:
    """Workers that test side by side compute on one thread each, and so do processes that they start."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What was imported until now stays: the garbage collector need not go through millions of objects every time."""
    gc.freeze()


def new_random_pipeline(**unet: object) -> StableDiffusionPipeline:
    """An untrained Stable Diffusion pipeline: 64 px, two levels with self- and cross-attention, sharpened."""
    torch.manual_seed(0)
    return copy.deepcopy(built(**unet))  # which takes less than to build it


@cache
def built(**unet: object) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = new_tokenizer(["a red car", "a blue house"])
    settings = {
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": (2, 4),
        "norm_num_groups": 8,
    }
    model = UNet2DConditionModel(**settings | unet)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "to_q" in name or "to_k" in name:
                weight *= 3
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=new_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=model.eval(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def random_pipe() -> StableDiffusionPipeline:
    return new_random_pipeline()


@pytest.fixture(scope="session")
def embedded() -> StableDiffusionPipeline:
    """The embedded pipeline. Tests must leave it as it was."""
    pipe = entropylab.load(device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown to readers is run with few samples and steps: that it runs is tested, not what it finds."""

    def hurry(owner: object, name: str, usual: int | None = None, **most: int) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def soon(*given: object, **options: object) -> object:
            fewer = {each: min(options.get(each, usual), most[each]) for each in most if usual or each in options}
            return original(*given, **options | fewer)

        monkeypatch.setattr(owner, name, soon)

    hurry(entropylab, "measure", samples=2, steps=1)
    hurry(entropylab, "calibrate", samples=2, steps=1, iterations=1)
    hurry(entropylab, "simulate_dataset", queries=16)
    hurry(StableDiffusionPipeline, "__call__", usual=2, num_inference_steps=2)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are not drawn."""
    from entropylab.reporting import pictures

    def drawn(name: str, caption: str, *_: object, **options: object) -> list[pictures.Picture]:
        return [pictures.Picture(name, caption, b"\x89PNG")]

    monkeypatch.setattr(pictures, "drawn", drawn)
