"""The backends' rule of precision, and what asks and checks them."""

import math

import torch

from entropylab.entropy import STATISTICS

BASIC = ("entropy", "lse", "mean", "variance")
CUMULANTS = ("mean", "variance", "third", "fourth")
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
EPSILON = 2.0**-23


def plain(q, k, scale=None, mask=None, is_causal=False) -> dict[str, torch.Tensor]:
    """Every statistic of the materialised map, in the dtype of q."""
    k = k.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3)
    logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    left = torch.ones(logits.shape, dtype=torch.bool, device=q.device)
    if mask is not None:
        left = left & (mask if mask.dtype == torch.bool else mask > -9999)
        logits = logits if mask.dtype == torch.bool else logits + mask.to(logits.dtype)
    left = left.tril() if is_causal else left
    logits = logits.masked_fill(~left, -torch.inf)
    count, weights = left.sum(-1), logits.softmax(-1).masked_fill(~left, 0)
    shown = logits.masked_fill(~left, 0)
    mean = shown.sum(-1) / count
    second, third, fourth = (((shown - mean[..., None]) * left).pow(power).sum(-1) / count for power in (2, 3, 4))
    first = (weights * shown).sum(-1, keepdim=True)
    found = {
        "entropy": -torch.special.xlogy(weights, weights).sum(-1),
        "lse": logits.logsumexp(-1),
        "mean": mean,
        "variance": second,
        "third": third,
        "fourth": fourth - 3 * second.square(),
        "sensitivity": (weights * (shown - first).square()).sum(-1),
    }
    found = {name: value.masked_fill(count == 0, math.nan) for name, value in found.items()}
    return found | {"keys": count, "logits": logits, "weights": weights}


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return (found.double() - exact).abs().nan_to_num(0).max().item()


def computed(found) -> list[str]:
    return [name for name in STATISTICS if getattr(found, name) is not None]


def check_rule(found, q, k, scale=None, mask=None, is_causal=False) -> None:
    """FlashAttention's rule: an error of at most twice that of plain PyTorch, or of what float32 can tell apart."""
    wide = mask if mask is None or mask.dtype == torch.bool else mask.double().masked_fill(mask <= -9999, -torch.inf)
    exact = plain(q.double(), k.double(), scale, wide, is_causal)
    same = plain(q, k, scale, mask, is_causal)
    assert (found.keys == exact["keys"]).all()
    sizes = [1 + exact[name].abs().nan_to_num(0, 0, 0).max().item() for name in ("lse", "logits")]
    deviation = 1 + exact["variance"].nan_to_num(0).max().item() ** 0.5
    for name in computed(found):
        power = {"variance": 2, "third": 3, "fourth": 4, "sensitivity": 2}.get(name, 1)
        resolution = 2 * EPSILON * sizes[name in CUMULANTS] * power * deviation ** (power - 1)
        assert torch.equal(found[name].isnan(), exact[name].isnan()), name
        assert found[name].dtype == SINGLE
        assert error(found[name], exact[name]) <= 2 * error(same[name], exact[name]) + resolution, name
        # In half precision the rule is a weak one; the products are exact there, and so are the statistics.
        assert error(found[name], exact[name]) <= 64 * resolution, name


SHAPES = [  # dtype, queries, keys, d, heads, key heads
    (SINGLE, 1, 1, 8, 1, 1),
    (SINGLE, 63, 111, 20, 4, 2),
    (SINGLE, 33, 200, 160, 1, 1),
    (SINGLE, 13, 513, 64, 2, 1),
    (HALF, 1, 200, 72, 2, 1),
    (HALF, 111, 128, 64, 2, 2),
    (HALF, 63, 63, 256, 1, 1),
    (BRAIN, 70, 130, 40, 2, 1),
    (BRAIN, 63, 1, 160, 1, 1),
]
