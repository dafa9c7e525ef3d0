"""Tiny, random, offline pipelines of many families, and what is known of each without looking at attention."""

from dataclasses import replace
from importlib import import_module

from .family import Family

FILES = (
    "unets",
    "unets_other",
    "unets_video",
    "unets_more",
    "transformers",
    "transformers_video",
    "transformers_wan",
    "transformers_sound",
    "joint",
    "joint_packed",
    "joint_video",
    "joint_new",
)

BUILT: list[Family] = [family for name in FILES for family in import_module(f".{name}", __name__).FAMILIES]

OUR_NAMES = {
    "Stable Diffusion 3.5, skip-layer guidance": ("cond", "uncond", "perturbed"),
    "Attend-and-Excite": ("cond", "uncond", "perturbed"),
    "InstructPix2Pix": ("cond", "uncond", "uncond 2"),
    "Semantic Guidance": ("cond", "uncond", "uncond 2"),
    "OmniGen, input image": ("cond", "uncond", "uncond 2"),
    "LongCat-AudioDiT": ("all",),  # no scheduler: it does not tell which calls make a step
    "Cosmos": ("branch 0", "branch 1"),  # its scheduler steps both branches, before they are combined
    "Kandinsky 5 video": ("branch 0", "branch 1"),  # random weights: both branches return the same
    "Kandinsky 5 video, sparse": ("branch 0", "branch 1"),
    "Kandinsky 5": ("branch 0", "branch 1"),
    "SkyReels-V2 diffusion forcing": ("branch 0", "branch 1"),  # every frame has a scheduler of its own
    "UniDiffuser": ("branch 0", "branch 1"),  # its outputs are three, and stepped as one
}
"""Families whose branches have other names with us than the family would give them."""

NO_SIZE = (
    "Stable Audio",
    "Stable Audio 3",
    "LongCat-AudioDiT",
    "ACE-Step",
    "VQ-Diffusion",
    "Kandinsky 2.1 prior",
    "Kandinsky 2.2 prior",
    "Stable Cascade decoder",
    "Würstchen decoder",
    "unCLIP",
)
"""Families that are not asked for a size in pixels."""

TEXT = {
    "Stable Diffusion 3": (10, "last"),
    "Stable Diffusion 3.5": (10, "last"),
    "Stable Diffusion 3.5, skip-layer guidance": (10, "last"),
    "FLUX.1": (10, "first"),
    "FLUX.1, true guidance": (10, "first"),
    "FLUX.2 klein": (10, "first"),
    "Chroma": (12, "first"),
    "Bria 3.2": (10, "first"),
    "Ovis-Image": (10, "first"),
    "LongCat-Image": (12, "first"),
}
"""Families in whose attention image and text meet: how many tokens of text, and where."""

PARTS = {
    "FLUX.1 Kontext": {"text": (0, 10), "image": (10, 58), "reference": (58, 74)},
    "FLUX.2": {"text": (0, 10), "image": (10, 58), "reference": (58, 78)},
    "Qwen-Image-Edit": {"text": (0, 14), "image": (14, 62), "reference": (62, 78)},
    "HiDream-I1": {"image": (0, 48), "other": (48, 64), "text": (64, 81)},
    "AuraFlow": {"other": (0, 8), "text": (8, 19), "image": (19, 67)},
    "Kandinsky 2.1 prior": {"text": (0, 24), "image": (26, 27)},
    "Kandinsky 2.2 prior": {"text": (0, 24), "image": (26, 27)},
}
"""Families in whose attention more than image and text meet: first and last + 1 of some of their query rows."""

FAMILIES = [
    replace(
        family,
        branches=OUR_NAMES.get(family.name, family.branches),
        asked=family.name not in NO_SIZE,
        text=TEXT.get(family.name, family.text),
        parts=PARTS.get(family.name),
    )
    for family in BUILT
]
