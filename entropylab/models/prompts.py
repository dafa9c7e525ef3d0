"""What the embedded pipeline is prompted with, and how it samples, unless somebody says otherwise."""

from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import EntropyLabError

FOLDER = Path(str(resources.files(__package__).joinpath("emoji")))
"""The embedded pipeline: a folder in StableDiffusionPipeline format."""

SETTINGS = {"num_inference_steps": 20, "guidance_scale": 3.0}


def is_embedded(pipe: Any) -> bool:
    """Whether ``pipe`` is the embedded pipeline."""
    return str(getattr(pipe, "name_or_path", "")) == str(FOLDER)


def embedded_prompts() -> list[str]:
    """The forty prompts of the embedded pipeline's sample grid."""
    text = resources.files(__package__).joinpath("prompts.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def default_prompts(pipe: Any) -> list[str]:
    """The embedded pipeline's prompts; for any other pipeline an EntropyLabError that asks for some."""
    if is_embedded(pipe):
        return embedded_prompts()
    raise EntropyLabError(
        "prompts must be given for a pipeline other than the embedded one: a list of strings, or a text file with "
        "one a line. Got None."
    )


def default_settings(pipe: Any) -> dict[str, Any]:
    """Steps and guidance that suit the embedded pipeline; nothing for others, which have defaults of their own."""
    return dict(SETTINGS) if is_embedded(pipe) else {}
