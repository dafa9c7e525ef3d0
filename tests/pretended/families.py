"""Which families of the zoo are tried on pretended GPUs, and what is known of them."""

LAUNCHES = {
    "Stable Diffusion 2": 3.1,
    "Kandinsky 2.2": 5,
    "AnimateDiff": 3,
    "DiT": 16,
    "PixArt-Sigma": 8,
    "Sana": 11,
    "Stable Diffusion 3": 9,
    "FLUX.1": 5,
    "Qwen-Image": 11,
    "PRX": 11,
    "HiDream-I1": 8,
    "Wan 2.1": 4,
    "CogVideoX": 12,
}
"""Family -> at most so many launches of ours for an attention call, where all is on one GPU.

They are U-Nets, also with keys of both sides and with temporal layers; transformers without text, with masked text and
with linear attention; joint attention of two streams, of one, with padding, in one packed sequence, and of several
texts; video in turn with text, and joint. Whatever saves launches should lower its number here.
"""

ROUTED = {"HiDream-I1"}
"""Families whose tokens can't be followed without waiting, in the first sampling: each chooses its experts."""
