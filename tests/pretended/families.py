"""Which families of the zoo are tried on pretended GPUs, and what is known of them."""

LAUNCHES = {
    "Stable Diffusion 2": 3.1,
    "PixArt-Sigma": 8,
    "Sana": 11,
    "FLUX.1": 5,
    "Qwen-Image": 11,
    "HiDream-I1": 8,
    "Wan 2.1": 4,
}
"""Family -> at most so many launches of ours for an attention call, where all is on one GPU.

They are a U-Net; transformers with masked text and with linear attention; joint attention of two streams, with padding,
and of several texts; video in turn with text. `python -m tests.pretended` tries all families. Whatever saves launches
should lower its number here.
"""

ROUTED = {"HiDream-I1"}
"""Families whose tokens can't be followed without waiting, in the first sampling: each chooses its experts."""
