"""Which families of the zoo are tried on pretended GPUs, and what is known of them."""

LAUNCHES = {
    "Stable Diffusion 2": 17,
    "Kandinsky 2.2": 19,
    "AnimateDiff": 17,
    "DiT": 40,
    "PixArt-Sigma": 41,
    "Sana": 60,
    "Stable Diffusion 3": 259,
    "FLUX.1": 248,
    "Qwen-Image": 719,
    "PRX": 369,
    "HiDream-I1": 333,
    "Wan 2.1": 25,
    "CogVideoX": 381,
}
"""Family -> at most so many launches of ours for an attention call, where all is on one GPU.

They are U-Nets, also with keys of both sides and with temporal layers; transformers without text, with masked text and
with linear attention; joint attention of two streams, of one, with padding, in one packed sequence, and of several
texts; video in turn with text, and joint. Whatever saves launches should lower its number here.
"""

WAITING = {"Qwen-Image"}
"""Families that wait for a GPU once for each mask of a sampling: a new one is compared with those of the last."""
