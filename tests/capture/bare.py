"""``record`` on bare modules: what they return is the same, and what was measured, beside what their own maps give."""

import torch

import entropylab

from ..maps import entropy_of_map

IDS = torch.randint(3, 50, (3, 11), generator=torch.Generator().manual_seed(0))
LEFT = torch.arange(11) < torch.tensor([11, 7, 4])[:, None]


def sharpened(model, factor=6.0):
    """``model`` in eval mode, with attention that is far from uniform."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            words = ("query", "key", "q_proj", "k_proj", "c_attn", ".q.", ".k.", "in_proj", "to_q", "to_k")
            if any(word in name for word in words) and weight.ndim == 2:
                weight.mul_(factor)
    return model.eval()


def wanted(maps, rows=None):
    """Mean entropy over the rows that count: (layers, batch, heads)."""
    entropy = entropy_of_map(maps)
    rows = torch.ones(maps.shape[1], maps.shape[3], dtype=torch.bool) if rows is None else rows
    counted = rows[None, :, None].expand(entropy.shape)
    return (entropy.masked_fill(~counted, 0).sum(-1) / counted.sum(-1)).numpy()


def measured(ds, name="entropy"):
    return ds[name].squeeze(("size", "scaling", "branch", "step")).transpose("layer", "sample", "head").values


def recorded(model, *arguments, **named):
    with torch.no_grad():
        plain = model(*arguments, **named)
        with entropylab.record(model) as rec:
            watched = model(*arguments, **named)
    assert rec.unmeasured == {}
    for one, other in zip(outputs(plain), outputs(watched), strict=True):
        assert torch.equal(one, other)
    return rec.dataset


def outputs(found):
    """Every tensor that a model returned."""
    if isinstance(found, torch.Tensor):
        return [found]
    values = found.values() if hasattr(found, "values") else found
    return [value for value in values if isinstance(value, torch.Tensor)]
