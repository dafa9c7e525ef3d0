"""How the entropy of a layer's rows answers to the scale and to the number of keys, from a few rows at one size."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..capture import AttentionCall
from ..entropy.beyond import falls_of
from ..entropy.choice import answer
from ..entropy.reference import by_chunks
from ..entropy.rows import Rows
from ..pipelines import image_keys, is_without_image, kind_of
from ..scaling.calibrated import MULTIPLIERS
from .reduce import Where, rows_at, some_rows


class Responses:
    """Sums over a few query rows of every attention call, by layer and head, on the calls' own device.

    Args:
        kinds: kinds of layers to look at.
        rows: query rows of each call, the same ones whenever a layer has as many.
    """

    def __init__(self, kinds: Sequence[str], rows: int = 16) -> None:
        self.kinds, self.rows = tuple(kinds), rows
        self.sums: dict[str, Tensor] = {}
        self.growing: dict[str, int] = {}

    def on_attention(self, call: AttentionCall) -> None:
        """Add a call's rows: those of the image, where others are beside them."""
        if kind_of(call) not in self.kinds or is_without_image(call):
            return
        roles = call.roles
        queries: Where = slice(None)
        keys: Where = slice(None)
        if roles is not None and "image" in roles.queries.parts and "image" in roles.keys.parts:
            queries, keys = (
                roles.queries.standing_for("image", call.query.device),
                roles.keys.standing_for("image", call.query.device),
            )
        asked = some_rows(rows_at(call, queries), self.rows)
        rows = Rows(asked.query, call.key, call.scale, asked.mask, asked.is_causal, ("entropy",))
        grows = torch.zeros(1, call.key.shape[-2], dtype=torch.bool, device=call.key.device)
        if isinstance(keys, slice):
            grows[:, keys] = True
        else:
            grows = keys
        found = responses_of(rows, grows)
        counts = found.isfinite().all(-1, keepdim=True)
        if asked.counted is not None:
            counts = counts & asked.counted[..., None]
        total = torch.cat([torch.where(counts, found, 0), counts.to(found.dtype)], -1).sum((0, 2), dtype=torch.float64)
        self.sums[call.layer] = self.sums[call.layer] + total if call.layer in self.sums else total
        self.growing[call.layer] = image_keys(call)

    def dataset(self, layers: Sequence[str], heads: int) -> xr.Dataset:
        """Means over rows as a Dataset of these layers, NaN where a layer has fewer heads.

        ``response`` (layer, head, multiplier) is H(m) [nats], ``slope`` (layer, head) is dH/dlog N at m = 1, and
        ``growing`` (layer) counts the keys that grow with the picture.
        """
        values = np.full((len(layers), heads, len(MULTIPLIERS) + 1), np.nan)
        for place, layer in enumerate(layers):
            if layer in self.sums:
                sums = self.sums[layer].cpu().numpy()
                values[place, : len(sums)] = sums[:, :-1] / sums[:, -1:]
        return xr.Dataset(
            {
                "response": (("layer", "head", "multiplier"), values[..., :-1]),
                "slope": (("layer", "head"), values[..., -1]),
                "growing": ("layer", [float(self.growing.get(layer, np.nan)) for layer in layers]),
            },
            {"multiplier": MULTIPLIERS, "layer": list(layers), "head": np.arange(heads)},
        )


def responses_of(rows: Rows, grows: Tensor) -> Tensor:
    """H(m) of every row at all ``MULTIPLIERS`` of the scale, and its local slope: (..., heads, rows, multipliers + 1).

    The slope, in the last place, is that of leaving out one key of those that grow, against the log of their number.

    Args:
        rows: what is asked of: q (batch, heads, rows, d) and so on.
        grows: boolean (batch or 1, keys).
    """
    found = [answer(replace(rows, scale=rows.scale * m))["entropy"] for m in MULTIPLIERS.tolist()]
    still = ~grows[:, None, None]
    slopes = [falls_of(logits).masked_fill(still, 0).sum(-1) for _, logits in by_chunks(rows)]
    return torch.stack([*found, torch.cat(slopes, -1)], -1)
