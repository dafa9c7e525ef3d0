"""Tiny, random, offline pipelines of many families, and what is known of each without looking at attention."""

from importlib import import_module

from .family import Family

FILES = (
    "unets",
    "unets_kandinsky",
    "unets_cascade",
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

FAMILIES: list[Family] = [family for name in FILES for family in import_module(f".{name}", __name__).FAMILIES]

BY_NAME = {family.name: family for family in FAMILIES}
