"""``calibrate``: the multipliers that give every layer and head the entropy it has at the training size."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from . import pipelines
from .capture import intercept
from .checkpoints import magnitudes
from .errors import EntropyLabError, EntropyLabWarning, check_count, check_int, check_positive, counted
from .measurement import measure
from .measuring.checks import check_prompts
from .measuring.responses import Responses
from .netcdf import open_dataset, save
from .scaling import NamedRule, check_train_size
from .scaling.calibrated import LARGEST, SMALLEST, ByLayer, FromOneSize, aim_of, multipliers_for
from .scaling.rescaling import USUAL_KINDS, check_kinds
from .sizes import Size, size_label

Array = NDArray[Any]

RESPONSE = ("response", "slope", "growing")
"""What of the training size the rule "predicted" is made of."""


@dataclass(frozen=True)
class Calibration:
    """Multipliers that bring the self-attention of one model back to its entropy at the training size.

    Attributes:
        dataset: dims (size, layer, head): ``calibrated`` and ``invariant`` multipliers, ``entropy`` reached with the
            calibrated ones, ``reachable`` (log N is no less than the target), ``aim``, the entropy to reach: the
            target, or target * log N / log T where no multiplier reaches it; dims (layer, head): ``target`` entropy
            [nats], ``sigma2`` [nats^2] and ``slope`` dH/dlog N at the training size; ``response(layer, head,
            multiplier)`` [nats], its entropy under other multipliers; ``held_out(rule, size)``: the part of the layers'
            drift that a rule removes on other prompts and seeds, which the attribute ``judged`` names; coordinates
            ``tokens(size, layer)``, ``train_tokens(layer)``, ``height``, ``width`` [pixels].

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
        """The rule that restores each layer's and head's entropy, found by Newton's method.

        It goes by N: interpolated in log N, the mean of sizes with as many tokens, and 1 where N = T.
        """
        return NamedRule("calibrated", self.rule("calibrated"))

    @property
    def invariant(self) -> NamedRule:
        """The second-order rule, m^2 = 1 + 2 log(N/T) / sigma_T^2, from sigma_T^2 of each layer and head."""
        return NamedRule("invariant", self.rule("invariant"))

    @property
    def predicted(self) -> NamedRule:
        """The rule from the measurement at the training size alone, for any size; see ``FromOneSize``."""
        ds, tables = self.dataset, {}
        if "response" not in ds:
            raise EntropyLabError('the calibration is of before there was a rule "predicted": calibrate anew.')
        for name in RESPONSE:
            tables[name] = {str(layer): known(ds[name].sel(layer=layer).values) for layer in ds.layer.values}
        growing = {layer: float(count) for layer, count in tables["growing"].items()}
        return NamedRule("predicted", FromOneSize(tables["response"], tables["slope"], growing, **self.about))

    @property
    def about(self) -> dict[str, Any]:
        """What every rule of this calibration knows of its model."""
        names = ("weights", "uncalibrated", "kinds")
        weights, others, kinds = (json.loads(self.dataset.attrs.get(name, "null")) for name in names)
        trained = json.loads(self.dataset.attrs.get("trained", "null"))
        sizes = {"kinds": tuple(kinds) if kinds else None, "train_size": tuple(trained) if trained else None}
        return {"weights": weights or {}, "others": tuple(others or ()), **sizes}

    def rule(self, name: str) -> ByLayer:
        """The multipliers of variable ``name`` as a rule; of sizes with as many tokens their geometric mean."""
        ds, tokens, factors = self.dataset, {}, {}
        size = json.loads(ds.attrs.get("trained", "null"))
        growth = (ds.height * ds.width).values / np.prod(size or 1)
        constant = (ds.tokens == ds.train_tokens).all("size")
        still = ds.layer.values[constant.values].tolist() if size else []
        for layer in ds.layer.values.tolist():
            one = ds.sel(layer=layer)
            logs = known(np.log(one[name].transpose("head", "size").values)).T
            counts = one.train_tokens.item() * growth if layer in still else one.tokens.values
            trained, at = np.log(one.train_tokens.item()), np.log(counts)
            tokens[layer] = np.unique([trained, *at])
            means = [0 * logs[0] if knot == trained else logs[at == knot].mean(0) for knot in tokens[layer]]
            factors[layer] = np.stack(means)  # 1 at the training size
        counts = {layer: ds.train_tokens.sel(layer=layer).item() for layer in factors}
        return ByLayer(tokens, factors, counts, tuple(still), **self.about)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the calibration as netCDF."""
        save(self.dataset, path, overwrite=overwrite)

    @classmethod
    def open(cls, path: str | Path) -> "Calibration":
        """Read a calibration that ``save`` wrote."""
        ds = open_dataset(path)
        if "calibrated" not in ds:
            held = ", ".join(sorted(map(str, ds)))
            raise EntropyLabError(f"{path} holds no calibration, but {held}: `entropylab calibrate` makes one.")
        return cls(ds)

    def __repr__(self) -> str:
        return f"Calibration of {self.dataset.attrs.get('model')}\n{self.dataset}"

    def _repr_html_(self) -> str:
        return self.dataset._repr_html_()


def known(values: Array) -> Array:
    """Values of a layer's heads, without those that it does not have."""
    return values[np.isfinite(values.reshape(len(values), -1)).all(1)] if values.ndim else values


def calibrate(
    pipe: Any,
    sizes: Any,
    *,
    train_size: Any = None,
    rows: int | None = 256,
    iterations: int = 6,
    tolerance: float = 0.01,
    kinds: Sequence[str] | str = USUAL_KINDS,
    held_out: bool = True,
    **sampling: Any,
) -> Calibration:
    """Find, for every layer and head, the multipliers that restore its training-size entropy.

    At the training size the entropy and sigma^2 of every layer and head are measured, and how entropy answers to the
    scale and to the number of keys: the rule ``predicted`` is made of that alone. At every other size one pass without
    multipliers gives the first guess, and Newton's method on log m, with dH/d log m = -Var_A[s] as measured, brings
    entropy back; all layers move together, since each changes what the later ones see. Where no multiplier of at least
    0.1 reaches the entropy of the training size, H_T, for it may be more than log N, the aim is H_T log N / log T.

    Rules are judged on prompts and seeds that they were not made with: on prompts that are left over by ``samples``, or
    the last quarter of four or more, which is kept back for that; of fewer prompts on these under other seeds.

    In joint attention, entropy is that of the image's rows, over all keys. Layers that are of other kinds when they
    run, or can't be measured, keep their scale; they are in the Dataset's attribute ``uncalibrated``, and a warning
    names those that the size matters to.

    Args:
        pipe: a diffusers pipeline.
        sizes: sizes to calibrate at [pixels], as for ``measure``.
        train_size: training size [pixels] if the pipeline's config does not say.
        rows: query rows to look at in every map, a fixed random subset; None for all. The sensitivity needs the map's
            second moment, which costs more than sampling where there are many tokens.
        iterations: Newton steps at most, each of which samples once.
        tolerance: stop when entropies are as near to their aims [nats].
        kinds: kinds of layers to calibrate, of "self", "joint" and "temporal". Temporal attention has as many keys at
            every size: its multipliers go by the picture's area.
        held_out: whether to judge the rules: one pass at the training size and four at every other.
        sampling: prompts, samples, steps, guidance_scale, seed, batch_size, call, progress, as for ``measure``.

    Returns:
        `Calibration`.

    Raises:
        EntropyLabError: as for ``measure``; no layer of the model is of these kinds, after a first step.

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
    kinds = check_kinds(kinds)
    sampling, others = split_prompts(pipe, {**sampling, "rows": rows, "layers": kinds, "train_size": train_size})
    responses = Responses(kinds)
    with intercept(pipelines.denoisers(pipe), responses.on_attention):  # once, for entering and leaving takes time
        met = kinds_of_layers(pipe, trained, kinds, sampling)
        reference = answering(pipe, trained, sampling, responses, with_slope=True)
        alone = left_alone(pipe, reference, met, kinds)
        found = [newton(pipe, pair, reference, iterations, tolerance, sampling, alone, responses) for pair in pairs]
    joined = xr.concat(found, "size", join="outer", coords="minimal", compat="override")
    joined["target"], joined["sigma2"] = bare(reference.entropy), bare(reference.sigma2)
    joined = joined.assign({name: bare(reference[name]) for name in RESPONSE})
    by_layer = {name: bare(reference[name]) for name in ("train_tokens", "block", "kind")}
    joined = joined.assign_coords(by_layer | {"size": joined["size"].astype(str)})
    for name in ("calibrated", "invariant"):
        joined[name].attrs = {"units": "1", "long_name": f"multiplier of the softmax scale, {name}"}
    joined["target"].attrs = {"units": "nats", "long_name": "attention entropy at the training size"}
    joined["response"].attrs = {"units": "nats", "long_name": "entropy at the training size under a multiplier"}
    attributes = {"weights": magnitudes(pipe), "uncalibrated": alone, "kinds": kinds, "trained": trained}
    attributes = {name: json.dumps(value) for name, value in attributes.items()}
    calibration = Calibration(joined.assign_attrs(reference.attrs, **attributes))
    return calibration if not held_out else judged(pipe, calibration, trained, pairs, {**sampling, **others})


def split_prompts(pipe: Any, sampling: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to calibrate with, and what is other where the result is judged: prompts, their number, and the seed."""
    samples, seed = check_count("samples", sampling.get("samples"), None), sampling.get("seed", 0)
    asked = None if samples is None else 2 * samples
    texts = list(check_prompts(pipe, sampling.get("prompts"), asked, seed, sampling.pop("column", None)))
    kept = len(texts) // 4 if samples is None else 0
    made = texts[: len(texts) - kept] if samples is None else texts[:samples]
    count = len(made) if samples is None else samples
    others = texts[len(made) :][:count]
    judging = {"prompts": others or made, "samples": len(others) or count, "seed": seed + count}
    return {**sampling, "prompts": made, "samples": count, "seed": seed}, judging


def judged(
    pipe: Any, calibration: Calibration, trained: Size, sizes: list[Size], sampling: dict[str, Any]
) -> Calibration:
    """The calibration with the part of the layers' drift that each rule removes on what it was not made with."""
    rules = ("original", calibration.invariant, calibration.predicted, calibration.calibrated)
    sampling = {**sampling, "statistics": ("entropy",), "keep": ("layer",)}
    before = chosen(pipe, measure(pipe, [trained], **sampling)).entropy.isel(size=0, scaling=0, drop=True)
    after = chosen(pipe, measure(pipe, sizes, scaling=rules, **sampling)).entropy
    drift = abs(bare(after) - bare(before)).mean("layer")
    removed = 1 - drift.drop_sel(scaling="original") / drift.sel(scaling="original").where(lambda value: value > 0)
    removed.attrs = {"units": "1", "long_name": "part of the layers' drift removed, held out"}
    told = {name: sampling[name] for name in ("prompts", "samples", "seed")}
    made = calibration.dataset.assign(held_out=removed.rename(scaling="rule").transpose("rule", "size"))
    return Calibration(made.assign_attrs(judged=json.dumps(told)))


def kinds_of_layers(pipe: Any, size: Size, kinds: Sequence[str], sampling: dict[str, Any]) -> dict[str, str]:
    """Layer path -> kind of the layers that can be measured, from one sample in one step; some are of these kinds."""
    few = {**sampling, "rows": 1, "samples": 1, "keep": ("layer",), "statistics": ("entropy",)}
    few |= {"strict": False, "layers": None, "steps": 1 if sampling.get("call") is None else None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)  # what can't be measured is named when all is sampled
        ds = measure(pipe, [size], **few)
    met = dict(zip(ds.module.values.tolist(), ds.kind.values.tolist(), strict=True))
    if not set(kinds) & set(met.values()):
        raise EntropyLabError(
            f"calibrate is for layers of kind {' or '.join(kinds)}, and {type(pipe).__name__} has none: its {len(met)} "
            f"layers are of kind {', '.join(sorted(set(met.values())))}, as {next(iter(met))}; not measured: "
            f"{ds.attrs['unmeasured']}."
        )
    return met


def left_alone(pipe: Any, reference: xr.Dataset, met: dict[str, str], kinds: Sequence[str]) -> list[str]:
    """The layers that look like self-attention and are not calibrated; what the size matters to is named."""
    declared = [layer.path for layer in pipelines.layers(pipe) if layer.kind == "self"]
    others = [path for path in declared if path not in set(reference.layer.values.tolist())]
    told = [path for path in others if met.get(path) not in ("temporal", "cross")]
    if told:
        named = ", ".join(f"{path} ({met.get(path, 'not measured')})" for path in told)
        message = f"{counted(len(told), 'layer')} keep their scale, for {', '.join(kinds)} are calibrated: {named}"
        warnings.warn(message, EntropyLabWarning, stacklevel=3)
    return others


def answering(pipe: Any, size: Size, sampling: dict[str, Any], responses: Responses, with_slope: bool) -> xr.Dataset:
    """What ``profile`` says without multipliers, and how entropy answers to them."""
    responses.begin(with_slope)
    ds = profile(pipe, size, "original", sampling)
    return ds.assign(responses.end(ds.layer.values.tolist(), ds.sizes["head"]).data_vars)


def profile(pipe: Any, size: Size, scaling: Any, sampling: dict[str, Any]) -> xr.Dataset:
    """Entropy, sigma^2 and sensitivity of every layer and head at one size; all else averaged."""
    statistics = ("entropy", "sigma2", "sensitivity")
    ds = measure(pipe, [size], scaling=scaling, keep=("layer", "head"), statistics=statistics, **sampling)
    return chosen(pipe, ds.isel(size=0, scaling=0, drop=True))


def chosen(pipe: Any, ds: xr.Dataset) -> xr.Dataset:
    """The rows of the image in the layers of denoisers, by the layers' paths."""
    denoising = np.isin([path.partition(".")[0] for path in ds.module.values.tolist()], list(pipelines.denoisers(pipe)))
    ds = ds.isel(layer=np.flatnonzero(denoising & np.isin(ds.part.values, ("image", "all", "unknown"))))
    ds = ds.isel(layer=np.flatnonzero(~ds.module.to_index().duplicated()))
    return ds.assign_coords(layer=ds.module.values)


def newton(
    pipe: Any,
    size: Size,
    reference: xr.Dataset,
    iterations: int,
    tolerance: float,
    sampling: dict[str, Any],
    others: list[str],
    responses: Responses,
) -> xr.Dataset:
    """Calibrated and invariant multipliers at one size."""
    target, trained = bare(reference.entropy), bare(reference.train_tokens)
    now = answering(pipe, size, sampling, responses, with_slope=False)
    tokens, response = bare(now.tokens), bare(now.response)
    invariant = np.sqrt((1 + 2 * np.log(tokens / trained) / bare(reference.sigma2)).clip(SMALLEST**2, LARGEST**2))
    reachable = target < np.log(tokens)
    aim = xr.apply_ufunc(aim_of, target, response.isel(multiplier=0, drop=True), tokens, trained)
    logs = xr.apply_ufunc(multipliers_for, response, aim, input_core_dims=[["multiplier"], []])
    for iteration in range(iterations):
        factors = {layer: known(logs.sel(layer=layer).values)[None] for layer in now.layer.values.tolist()}
        anywhere = dict.fromkeys(factors, np.empty(0))
        rule = ByLayer(anywhere, factors, others=tuple(others), kinds=tuple(sampling["layers"]))
        now = profile(pipe, size, NamedRule("calibrated", rule), sampling)
        drift = bare(now.entropy) - aim
        if iteration == iterations - 1 or float(abs(drift).max()) < tolerance:
            break
        step = (drift / bare(now.sensitivity).clip(min=1e-6)).clip(-0.7, 0.7)
        logs = (logs + step).clip(np.log(SMALLEST), np.log(LARGEST))
    values = {"calibrated": np.exp(logs), "invariant": invariant, "entropy": now.entropy, "reachable": reachable}
    values |= {"aim": aim}
    found = xr.Dataset({name: bare(value) for name, value in values.items()}).expand_dims(size=[size_label(size)])
    return found.assign_coords(
        tokens=(("size", "layer"), now.tokens.values[None]), height=("size", [size[0]]), width=("size", [size[1]])
    )


def bare(values: xr.DataArray) -> xr.DataArray:
    """``values`` with the coordinates of their dimensions only, so that those of other sizes do not clash."""
    return values.reset_coords(drop=True)
