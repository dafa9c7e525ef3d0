"""What a family is: how to build one of its pipelines tiny, how to sample from it, and what is known beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

BOTH = ("cond", "uncond")
PERTURBED = ("cond", "uncond", "perturbed")
NUMBERED = ("branch 0", "branch 1")
"""Branches that are kept apart, though which is which can't be told from how the pipeline combines them."""

Parts = Mapping[str, tuple[int | None, int | None]]
"""What rows of joint attention stand for -> first and last + 1, as a slice counts."""


@dataclass(frozen=True)
class Family:
    """One family of pipelines.

    Attributes:
        name: as people say it, e.g. "Stable Diffusion XL".
        pipeline: class name of the pipeline that ``build`` makes.
        build: a tiny pipeline with random weights: no network, the same weights whenever it is called.
        sample: samples two steps from such a pipeline, from fixed seeds; returns the images or latents as one tensor. A
            height and a width may follow, where another size is asked for.
        size: (height, width) that ``sample`` asks the pipeline for [pixels]; not square where the family allows it.
        branches: names of the guidance branches that a step of ``sample`` computes, as a set.
        parts: where the query rows of joint attention stand; None where it differs by sample.
        unlike: of families whose layers make a call for each part, and leave some out where they are cached: what query
            rows stand for -> how many a call has.
        asked: whether ``size`` is what ``sample`` asks for; else the pipeline has no such setting.
        comparable: whether what is reported of a step is what the denoiser's calls in it give, one by one.
    """

    name: str
    pipeline: str
    build: Callable[[], Any]
    sample: Callable[..., torch.Tensor]
    size: tuple[int, int]
    branches: tuple[str, ...] = BOTH
    parts: Parts | None = None
    unlike: Mapping[str, int] | None = None
    asked: bool = True
    comparable: bool = True

    def rows(self, part: str) -> slice | None:
        """Where query rows of joint attention stand that stand for ``part``, if that is known beforehand."""
        return slice(*self.parts[part]) if self.parts and part in self.parts else None


def first(text: int) -> Parts:
    """So many tokens of text, then those of the image."""
    return {"text": (0, text), "image": (text, None)}


def last(text: int) -> Parts:
    """The tokens of the image, then so many of text."""
    return {"text": (-text, None), "image": (0, -text)}


NORMS = {"norm_q", "norm_k", "q_norm", "k_norm", "query_norm", "key_norm", "norm_added_k"}
PROJECTIONS = ("to_q.", "to_k.", "add_q_proj.", "add_k_proj.", "to_qkv", "q_proj.")


def sharpened(model: Any) -> Any:
    """``model`` in eval mode, its queries and keys larger, so that attention is far from uniform."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if NORMS.intersection(name.split(".")):
                weight.mul_(2)
            if any(part in name for part in PROJECTIONS):
                weight.mul_(4)
    return model.eval()
