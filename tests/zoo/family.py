"""What a family is: how to build one of its pipelines tiny, how to sample from it, and what is known beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

NUMBERED = ("branch 0", "branch 1")
"""Branches that are kept apart, though which is which can't be told from how the pipeline combines them."""


@dataclass(frozen=True)
class Family:
    """One family of pipelines.

    Attributes:
        name: as people say it, e.g. "Stable Diffusion XL".
        pipeline: class name of the pipeline that ``build`` makes.
        build: a tiny pipeline with random weights: no network, the same weights whenever it is called.
        sample: samples two steps from such a pipeline, from fixed seeds; returns the images or latents as one tensor.
        size: (height, width) that ``sample`` asks the pipeline for [pixels]; not square where the family allows it.
        branches: names of the guidance branches that a step of ``sample`` computes, as a set.
        text: of families with joint attention of image and text alone, how many tokens of text stand among the keys,
            and whether they stand "first" or "last"; None elsewhere, or where it differs by sample.
        parts: of families in which other tokens join them: what some of them stand for -> first and last + 1,
            as a slice counts.
        unlike: of families whose layers make a call for each part, and leave some out where they are cached: what query
            rows stand for -> how many a call has.
        asked: whether ``size`` is what ``sample`` asks for; else the pipeline has no such setting.
        comparable: whether what is reported of a step is what the denoiser's calls in it give, one by one.
    """

    name: str
    pipeline: str
    build: Callable[[], Any]
    sample: Callable[[Any], torch.Tensor]
    size: tuple[int, int]
    branches: tuple[str, ...] = ("cond", "uncond")
    text: tuple[int, str] | None = None
    parts: Mapping[str, tuple[int, int | None]] | None = None
    unlike: Mapping[str, int] | None = None
    asked: bool = True
    comparable: bool = True

    def rows(self, part: str, queries: int) -> slice | None:
        """Where query rows of joint attention stand that stand for ``part``, if that is known beforehand."""
        if self.parts is not None:
            return slice(*self.parts[part]) if part in self.parts else None
        if self.text is None:
            return None
        count, side = self.text
        text = slice(0, count) if side == "first" else slice(queries - count, queries)
        image = slice(count, queries) if side == "first" else slice(0, queries - count)
        return {"text": text, "image": image}.get(part)


def sharpened(model: Any, factor: float = 4.0) -> Any:
    """``model`` in eval mode, its query and key projections larger, so that attention is far from uniform."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in ("to_q.", "to_k.", "add_q_proj.", "add_k_proj.", "to_qkv", "q_proj.")):
                weight.mul_(factor)
    return model.eval()
