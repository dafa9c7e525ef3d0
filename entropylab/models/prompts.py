"""What the embedded pipelines are prompted with, and how they sample, unless somebody says otherwise."""

import csv
from pathlib import Path
from typing import Any

from ..errors import EntropyLabError

FOLDER = Path(__file__).with_name("emoji")
"""The embedded pipeline: a folder in StableDiffusionPipeline format."""

JOINT_FOLDER = FOLDER.with_name("emoji_joint")
"""The second embedded pipeline: a folder in JointPipeline format, without the autoencoder, which is the first's."""

EMBEDDED = {FOLDER: "embedded", JOINT_FOLDER: "emoji-joint"}
"""What the embedded pipelines are called, by folder."""

SETTINGS = {"num_inference_steps": 20, "guidance_scale": 3.0}


def embedded_name(pipe: Any) -> str | None:
    """What ``pipe`` is called if it is embedded; else None."""
    return EMBEDDED.get(Path(str(getattr(pipe, "name_or_path", ""))))


def is_embedded(pipe: Any) -> bool:
    """Whether ``pipe`` is an embedded pipeline."""
    return embedded_name(pipe) is not None


def embedded_prompts() -> list[str]:
    """The forty prompts of the embedded pipelines' sample grids: captions of pictures that both learned."""
    text = FOLDER.with_name("prompts.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def captions() -> dict[str, str]:
    """Name of a picture -> its caption, for every picture that the embedded pipelines learned."""
    text = FOLDER.with_name("pictures.csv").read_text(encoding="utf-8")
    return {row["icon"]: row["caption"] for row in csv.DictReader(text.splitlines())}


def default_prompts(pipe: Any) -> list[str]:
    """The embedded pipelines' prompts; for any other pipeline an EntropyLabError that asks for some."""
    if is_embedded(pipe):
        return embedded_prompts()
    raise EntropyLabError(
        "prompts must be given for a pipeline other than the embedded one: a list of strings, or a text file with "
        "one a line. Got None."
    )


def default_settings(pipe: Any) -> dict[str, Any]:
    """Steps and guidance that suit the embedded pipelines; nothing for others, which have defaults of their own."""
    return dict(SETTINGS) if is_embedded(pipe) else {}
