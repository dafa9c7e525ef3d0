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
from ..entropy.rows import Rows, both
from ..pipelines import image_keys, is_without_image, kind_of
from ..scaling.calibrated import MULTIPLIERS
from .reduce import Where, rows_at, some_rows

ASKED = MULTIPLIERS[::2]
"""Multipliers at which rows are looked at. Between them entropy is a cubic spline in log m: 6e-5 nats off in the heads
of the embedded model, 0.003 where all rows of a head fall onto one key at the same multiplier."""


class Responses:
    """Sums over a few query rows of every call of some kinds, by layer and head, on the calls' own device.

    Rows are the same ones whenever a layer has as many. Nothing is looked at before ``begin``.
    """

    def __init__(self, kinds: Sequence[str], rows: int = 16) -> None:
        self.kinds, self.rows, self.is_on, self.with_slope = tuple(kinds), rows, False, False
        self.sums: dict[str, Tensor] = {}
        self.growing: dict[str, int] = {}

    def begin(self, with_slope: bool) -> None:
        """Look from now on, and forget what was seen before; at the slope too, or at the answer to the scale alone."""
        self.is_on, self.with_slope, self.sums, self.growing = True, with_slope, {}, {}

    def on_attention(self, call: AttentionCall) -> None:
        """Add a call's rows: those of the image, where others are beside them."""
        if not self.is_on or kind_of(call) not in self.kinds or is_without_image(call):
            return
        roles, device = call.roles, call.query.device
        queries: Where = slice(None)
        keys: Where = slice(None)
        if roles is not None and "image" in roles.queries.parts and "image" in roles.keys.parts:
            queries, keys = (side.standing_for("image", device) for side in (roles.queries, roles.keys))
        asked = some_rows(rows_at(call, queries), self.rows)
        rows = Rows(asked.query, call.key, call.scale, asked.mask, asked.is_causal, ("entropy",))
        found = responses_of(rows)
        if self.with_slope:
            found = torch.cat([found, slopes_of(rows, keys)[..., None]], -1)
        counts = found.isfinite().all(-1, keepdim=True)
        if asked.counted is not None:
            counts = counts & asked.counted[..., None]
        total = torch.cat([torch.where(counts, found, 0), counts.to(found.dtype)], -1).sum((0, 2), dtype=torch.float64)
        self.sums[call.layer] = self.sums[call.layer] + total if call.layer in self.sums else total
        self.growing[call.layer] = image_keys(call)

    def end(self, layers: Sequence[str], heads: int) -> xr.Dataset:
        """Look no more: means over rows as a Dataset of these layers, NaN where a layer has fewer heads.

        ``response`` (layer, head, multiplier) is H(m) [nats], ``growing`` (layer) counts the keys that grow with the
        picture, and ``slope`` (layer, head), if it was looked at, is dH/dlog N at m = 1.
        """
        from scipy.interpolate import CubicSpline  # takes longer to import than all that is used otherwise

        self.is_on = False
        values = np.full((len(layers), heads, len(ASKED) + self.with_slope), np.nan)
        for place, layer in enumerate(layers):
            if layer in self.sums:
                sums = self.sums[layer].cpu().numpy()
                values[place, : len(sums)] = sums[:, :-1] / sums[:, -1:]
        between = CubicSpline(np.log(ASKED), np.eye(len(ASKED)))(np.log(MULTIPLIERS))
        response = np.minimum.accumulate(values[..., : len(ASKED)] @ between.T, -1)
        found = {
            "response": (("layer", "head", "multiplier"), response),
            "growing": ("layer", [float(self.growing.get(layer, np.nan)) for layer in layers]),
        }
        if self.with_slope:
            found["slope"] = (("layer", "head"), values[..., -1])
        return xr.Dataset(found, {"multiplier": MULTIPLIERS, "layer": list(layers), "head": np.arange(heads)})


def responses_of(rows: Rows) -> Tensor:
    """H(m) of every row with each multiplier ``ASKED`` of the scale: (..., heads, rows, multipliers), in one pass."""
    factors = torch.as_tensor(ASKED, dtype=rows.dtype, device=rows.q.device)
    queries, keys, mask = rows.q.shape[-2], rows.own_k.shape[-2], rows.mask
    if rows.is_causal:
        mask = both(mask, torch.ones(queries, keys, dtype=torch.bool, device=rows.q.device).tril())
    if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
        mask = torch.cat([mask] * len(factors), -2)
    scaled = (rows.q.to(rows.dtype).unsqueeze(-3) * factors[:, None, None]).flatten(-3, -2)
    every = replace(rows, q=scaled, own_k=rows.own_k.to(rows.dtype), mask=mask, is_causal=False)
    return answer(every)["entropy"].unflatten(-1, (len(factors), queries)).mT


def slopes_of(rows: Rows, grows: Where) -> Tensor:
    """The local slope of every row, by leaving out each key of those that grow, (batch, keys): (..., heads, rows)."""
    falls = torch.cat([falls_of(logits) for _, logits in by_chunks(rows)], -2)
    return (falls[..., grows] if isinstance(grows, slice) else falls.masked_fill(~grows[:, None, None], 0)).sum(-1)
