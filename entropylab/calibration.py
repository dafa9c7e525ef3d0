"""``calibrate``: the multipliers that give every layer and head the entropy it has at the training size."""

import json
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from . import pipelines
from .checkpoints import magnitudes
from .errors import EntropyLabError, EntropyLabWarning, check_int, check_positive, counted
from .measurement import measure
from .netcdf import open_dataset, save
from .scaling import LayerRule, NamedRule, check_train_size
from .sizes import Size, size_label

SMALLEST, LARGEST = 0.1, 10.0
"""Multipliers are kept between these: attention can't be spread beyond uniform (multiplier 0), nor frozen harder."""


@dataclass(frozen=True)
class ByLayer(LayerRule):
    """Multipliers by layer, head and number of tokens; between calibrated sizes interpolated in log N.

    Attributes:
        tokens: layer path -> log N of the calibrated sizes, ascending (sizes, ).
        factors: layer path -> log multipliers (sizes, heads).
        weights: layer path -> ``magnitudes`` of the model that was calibrated; nothing if they are not known.
        others: layers of the model that are left alone: they are of another kind, or were not measured.
    """

    tokens: dict[str, np.ndarray]
    factors: dict[str, np.ndarray]
    weights: dict[str, float] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    def check(self, pipe: Any) -> None:
        """The calibration must know every self-attention layer of the pipeline, with as many heads."""
        for layer in pipelines.layers(pipe):
            known = layer.kind != "self" or layer.path in self.others
            if not known and self.heads_of(layer.path) != layer.heads:
                raise EntropyLabError(
                    f"the calibration is of another model: {type(pipe).__name__} has layer {layer.path} with "
                    f"{layer.heads} heads, the calibration {self.heads_of(layer.path) or 'no such layer'}."
                )
        now = magnitudes(pipe) if self.weights else {}
        others = [path for path in now if not math.isclose(now[path], self.weights.get(path, now[path]), rel_tol=2e-3)]
        if others:
            message = f"the calibration is of other weights: {len(others)} of {len(now)} layers differ, as {others[0]}."
            warnings.warn(message, EntropyLabWarning, stacklevel=6)

    def heads_of(self, path: str) -> int:
        """How many heads a layer has, 0 if it is not known."""
        return self.factors[path].shape[1] if path in self.factors else 0

    def factor(self, layer: str, tokens: int, train_tokens: int) -> Tensor:
        """One multiplier per head (heads,)."""
        if layer in self.others:
            return torch.ones((), dtype=torch.float64)
        if layer not in self.tokens:
            raise EntropyLabError(
                f"the calibration is of another model: it has no layer {layer!r}, but "
                f"{counted(len(self.tokens), 'layer')} such as {next(iter(self.tokens), 'none')}."
            )
        known, here = self.tokens[layer], np.log(tokens)
        if not known[0] - 1e-9 <= here <= known[-1] + 1e-9:
            raise EntropyLabError(
                f"the calibration covers {np.exp(known[0]):.0f} to {np.exp(known[-1]):.0f} tokens of layer {layer}. "
                f"Got {tokens}: calibrate at a size that has as many."
            )
        logs = [np.interp(here, known, head) for head in self.factors[layer].T]
        return torch.tensor(np.exp(logs), dtype=torch.float64)


@dataclass(frozen=True)
class Calibration:
    """Multipliers that bring the self-attention of one model back to its entropy at the training size.

    Attributes:
        dataset: dims (size, layer, head): ``calibrated`` and ``invariant`` multipliers, ``entropy`` reached with the
            calibrated ones, ``reachable`` (log N is no less than the target); dims (layer, head): ``target`` entropy
            [nats] and ``sigma2`` [nats^2] at the training size; coordinates ``tokens(size, layer)``,
            ``train_tokens(layer)``, ``height``, ``width`` [pixels].

    Examples:
        >>> calibration = entropylab.calibrate(pipe, [48], samples=1, steps=1, iterations=1, progress=False)
        >>> calibration.dataset.calibrated.dims
        ('size', 'layer', 'head')
        >>> with entropylab.rescale(pipe, calibration.calibrated):
        ...     image = pipe("a red heart", height=48, width=48, num_inference_steps=1).images[0]
        >>> calibration.save("calibration.nc")
        >>> entropylab.Calibration.open("calibration.nc").calibrated.name
        'calibrated'
    """

    dataset: xr.Dataset

    @property
    def calibrated(self) -> NamedRule:
        """The rule that restores each layer's and head's entropy, found by Newton's method."""
        return NamedRule("calibrated", self.rule("calibrated"))

    @property
    def invariant(self) -> NamedRule:
        """The second-order rule, m^2 = 1 + 2 log(N/T) / sigma_T^2, from sigma_T^2 of each layer and head."""
        return NamedRule("invariant", self.rule("invariant"))

    def rule(self, name: str) -> ByLayer:
        """The multipliers of variable ``name`` as a rule."""
        ds, tokens, factors = self.dataset, {}, {}
        for layer in ds.layer.values:
            one = ds.sel(layer=layer)
            heads = one.target.notnull().values
            table: dict[float, np.ndarray] = {}
            for size in ds["size"].values:
                table[float(np.log(one.tokens.sel(size=size)))] = np.log(one[name].sel(size=size).values[heads])
            table[float(np.log(one.train_tokens))] = np.zeros(int(heads.sum()))
            tokens[str(layer)] = np.array(sorted(table))
            factors[str(layer)] = np.stack([table[count] for count in sorted(table)])
        others = tuple(json.loads(ds.attrs.get("uncalibrated", "[]")))
        return ByLayer(tokens, factors, json.loads(ds.attrs.get("weights", "{}")), others)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the calibration as netCDF."""
        save(self.dataset, path, overwrite=overwrite)

    @classmethod
    def open(cls, path: str | Path) -> "Calibration":
        """Read a calibration that ``save`` wrote."""
        ds = open_dataset(path)
        if "calibrated" not in ds:
            raise EntropyLabError(f"{path} holds no calibration, but variables {sorted(map(str, ds.data_vars))}.")
        return cls(ds)

    def __repr__(self) -> str:
        return f"Calibration of {self.dataset.attrs.get('model')}\n{self.dataset}"

    def _repr_html_(self) -> str:
        return self.dataset._repr_html_()


def calibrate(
    pipe: Any,
    sizes: Any,
    *,
    train_size: Any = None,
    rows: int | None = 256,
    iterations: int = 6,
    tolerance: float = 0.01,
    **sampling: Any,
) -> Calibration:
    """Find, for every self-attention layer and head, the multipliers that restore its training-size entropy.

    At the training size the entropy and sigma^2 of every layer and head are measured. At every other size Newton's
    method on log m, with dH/d log m = -Var_A[s] as measured, brings the entropy back; all layers move together, since
    each changes what the later ones see. An entropy above log N is out of reach: such heads go towards the
    smallest multiplier, 0.1 (the largest is 10).

    Layers that turn out to be joint or temporal when they run, or can't be measured, keep their scale; they are in
    the Dataset's attribute ``uncalibrated``, and a warning names the joint ones and those that were not measured.

    Args:
        pipe: a diffusers pipeline.
        sizes: sizes to calibrate at [pixels], as for ``measure``.
        train_size: training size [pixels] if the pipeline's config does not say.
        rows: query rows to look at in every map, a fixed random subset; None for all. The sensitivity needs the map's
            second moment, which costs more than sampling where there are many tokens.
        iterations: Newton steps at most, each of which samples once.
        tolerance: stop when the reachable drift is this small [nats].
        sampling: prompts, samples, steps, guidance_scale, seed, batch_size, call, progress, as for ``measure``.

    Returns:
        `Calibration`.

    Raises:
        EntropyLabError: as for ``measure``; no layer of the model is self-attention, after a first step.

    Source: the documentation's theory of the scaling factor, H(m; N) = H_T, layer by layer.

    Examples:
        >>> calibration = entropylab.calibrate(pipe, [48], samples=1, steps=1, iterations=1, progress=False)
        >>> ds = entropylab.measure(
        ...     pipe, [48, 64], scaling=("original", calibration.calibrated), samples=1, steps=1, progress=False
        ... )
        >>> ds.scaling.values.tolist()
        ['original', 'calibrated']
    """
    pairs = pipelines.check_sizes(pipe, sizes)
    trained = check_train_size(pipe, train_size)
    check_int("iterations", iterations)
    check_positive("tolerance", tolerance, "nats")
    sampling = {**sampling, "rows": rows}
    kinds = kinds_of_layers(pipe, trained, train_size, sampling)
    reference = profile(pipe, trained, "original", train_size, sampling)
    others = left_alone(pipe, reference, kinds)
    found = [newton(pipe, pair, reference, train_size, iterations, tolerance, sampling, others) for pair in pairs]
    joined = xr.concat(found, "size", join="outer", coords="minimal", compat="override")
    joined["target"], joined["sigma2"] = bare(reference.entropy), bare(reference.sigma2)
    by_layer = {name: bare(reference[name]) for name in ("train_tokens", "block", "kind")}
    joined = joined.assign_coords(by_layer | {"size": joined["size"].astype(str)})
    for name in ("calibrated", "invariant"):
        joined[name].attrs = {"units": "1", "long_name": f"multiplier of the softmax scale, {name}"}
    joined["target"].attrs = {"units": "nats", "long_name": "attention entropy at the training size"}
    attributes = {"weights": json.dumps(magnitudes(pipe)), "uncalibrated": json.dumps(others)}
    return Calibration(joined.assign_attrs(reference.attrs, **attributes))


def kinds_of_layers(pipe: Any, size: Size, train_size: Any, sampling: dict[str, Any]) -> dict[str, str]:
    """Layer path -> kind of the layers that can be measured, from one sample in one step.

    Raises:
        EntropyLabError: none of them is self-attention.
    """
    few = {name: value for name, value in sampling.items() if name not in ("samples", "steps", "rows", "strict")}
    if few.get("call") is None:
        few["steps"] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)  # what can't be measured is named when all is sampled
        ds = measure(
            pipe, [size], train_size=train_size, keep=("layer",), statistics=("entropy",), rows=1, samples=1,
            **few,
        )  # fmt: skip
    kinds = dict(zip(ds.module.values.tolist(), ds.kind.values.tolist(), strict=True))
    if "self" not in kinds.values():
        unmeasured = json.loads(ds.attrs["unmeasured"])
        lost = (
            f", and {counted(len(unmeasured), 'layer')} could not be measured ({unmeasured[0]})" if unmeasured else ""
        )
        raise EntropyLabError(
            f"calibrate is for self-attention, and {type(pipe).__name__} has none: its {len(kinds)} layers are "
            f"of kind {', '.join(sorted(set(kinds.values())))}, as {next(iter(kinds))}{lost}."
        )
    return kinds


def left_alone(pipe: Any, reference: xr.Dataset, kinds: dict[str, str]) -> list[str]:
    """The layers that look like self-attention and are not calibrated; what the size matters to is named."""
    declared = [layer.path for layer in pipelines.layers(pipe) if layer.kind == "self"]
    others = [path for path in declared if path not in set(reference.layer.values.tolist())]
    told = [path for path in others if kinds.get(path) not in ("temporal", "cross")]
    if told:
        named = ", ".join(f"{path} ({kinds.get(path, 'not measured')})" for path in told[:5])
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        message = f"{counted(len(told), 'layer')} keep their scale, for calibrate is for self-attention: {named}{more}"
        warnings.warn(message, EntropyLabWarning, stacklevel=3)
    return others


def profile(pipe: Any, size: Size, scaling: Any, train_size: Any, sampling: dict[str, Any]) -> xr.Dataset:
    """Entropy, sigma^2 and sensitivity of every self-attention layer and head at one size, all else averaged."""
    ds = measure(
        pipe, [size], scaling=scaling, train_size=train_size, keep=("layer", "head"), layers="self",
        statistics=("entropy", "sigma2", "sensitivity"), **sampling,
    )  # fmt: skip
    ds = ds.isel(size=0, scaling=0, drop=True)
    denoising = np.isin([path.partition(".")[0] for path in ds.module.values.tolist()], list(pipelines.denoisers(pipe)))
    ds = ds.isel(layer=np.flatnonzero(denoising & np.isin(ds.part.values, ("image", "all", "unknown"))))
    ds = ds.isel(layer=np.flatnonzero(~ds.module.to_index().duplicated()))
    return ds.assign_coords(layer=ds.module.values)


def newton(
    pipe: Any,
    size: Size,
    reference: xr.Dataset,
    train_size: Any,
    iterations: int,
    tolerance: float,
    sampling: dict[str, Any],
    others: list[str],
) -> xr.Dataset:
    """Calibrated and invariant multipliers at one size."""
    target = bare(reference.entropy)
    now = profile(pipe, size, "original", train_size, sampling)
    ratio = np.log(bare(now.tokens) / bare(reference.train_tokens))
    invariant = np.sqrt((1 + 2 * ratio / bare(reference.sigma2)).clip(SMALLEST**2, LARGEST**2))
    reachable = target < np.log(bare(now.tokens))
    logs = np.log(invariant)
    for iteration in range(iterations):
        rule = NamedRule("calibrated", ByLayer(*table(now, logs), others=tuple(others)))
        now = profile(pipe, size, rule, train_size, sampling)
        drift = bare(now.entropy) - target
        if iteration == iterations - 1 or float(abs(drift).where(reachable).max()) < tolerance:
            break
        step = (drift / bare(now.sensitivity).clip(min=1e-6)).clip(-0.7, 0.7)
        logs = (logs + step).clip(np.log(SMALLEST), np.log(LARGEST))
    values = {"calibrated": np.exp(logs), "invariant": invariant, "entropy": now.entropy, "reachable": reachable}
    found = xr.Dataset({name: bare(value) for name, value in values.items()}).expand_dims(size=[size_label(size)])
    return found.assign_coords(
        tokens=(("size", "layer"), now.tokens.values[None]), height=("size", [size[0]]), width=("size", [size[1]])
    )


def bare(values: xr.DataArray) -> xr.DataArray:
    """``values`` with the coordinates of their dimensions only, so that those of other sizes do not clash."""
    return values.reset_coords(drop=True)


def table(now: xr.Dataset, logs: xr.DataArray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Log multipliers (layer, head) at one size in the form that ``ByLayer`` takes."""
    tokens, factors = {}, {}
    for layer in now.layer.values:
        heads = now.entropy.sel(layer=layer).notnull().values
        tokens[str(layer)] = np.log([float(now.tokens.sel(layer=layer))])
        factors[str(layer)] = logs.sel(layer=layer).values[heads][None]
    return tokens, factors
