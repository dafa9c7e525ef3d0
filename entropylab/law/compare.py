"""Two measurements beside each other: what another model, rule, precision or size changes of entropy, layer by layer.

Knows Datasets, and nothing of tensors or models. Both were sampled from the same prompts and seeds, so every sample is
its own control: what samples differ by among themselves drops out of the difference.
"""

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import stdtr, stdtrit

from ..errors import EntropyLabError
from ..errors import counted as in_words
from ..sizes import AnySize
from .averages import (
    Kinds,
    averaged,
    chosen,
    counted,
    finite,
    kind_in,
    size_in,
    standard_error,
    with_known_samples,
)
from .lines import holm
from .names import Result, names_by_layer, page, table, text_table

SETTINGS = ("pipeline", "scheduler", "dtype", "steps", "guidance_scale")
"""Attributes of a measurement that change its entropy, and are said where they differ."""

NOTE = "H of the other less H, in nats; 95% intervals over pairs of samples; p of no difference, corrected by Holm"


class Comparison(Result):
    """How the entropy of every layer differs between two measurements, sample by sample; in nats.

    Attributes:
        dataset: with dim layer: ``entropy`` and ``other_entropy``, means over sizes and heads; ``difference``, the
            other less the first, ``difference_error``, over pairs of samples, ``difference_low`` and
            ``difference_high``, the 95% interval, ``difference_p`` of no difference, and ``difference_holm``, the same
            corrected for the number of layers; ``unpaired_error``, what the error would be of different samples.
            Without a dim ``mean_difference``, ``mean_difference_error``, ..., of the mean over layers.
            ``to_dataset()`` is a copy.
    """

    def to_frame(self) -> pd.DataFrame:
        """A row for every layer, in order."""
        return table(self.dataset, ["layer"])

    def summary(self) -> str:
        """The comparison as text to read."""
        rows = self.to_frame().drop(columns=["block", "part"], errors="ignore")
        return f"{NOTE}\n{self._about()}\n\n{self._lines()}\n\n{text_table(rows, '{:.4g}')}"

    def __repr__(self) -> str:
        return f"Comparison({self.dataset.sizes['layer']} layers, {self._mean()})"

    def _repr_html_(self) -> str:
        about = f"{'. '.join(self._about().splitlines())}. {NOTE}."
        return page(about, self._lines(), self.to_frame(), names_by_layer(self.dataset))

    def _about(self) -> str:
        """What was compared."""
        a = self.dataset.attrs
        first, other = (
            f"{a[f'{which}model'] or 'model'} (scaling {a[f'{which}scaling']}, {a[f'{which}sizes']})"
            for which in ("", "other_")
        )
        left = [in_words(a[f"{what}s_left_out"], what) for what in ("layer", "sample") if a[f"{what}s_left_out"]]
        alone = f"; left out, for only one has them: {', '.join(left)}" if left else ""
        differ = f"sampled with {a['other_settings']}, not {a['settings']}\n" if a["settings"] else ""
        return (
            f"{other} less {first}\n{differ}"
            f"{in_words(self.dataset.sizes['layer'], a['kind'] + ' layer')}, {in_words(a['samples'], 'pair')}{alone}"
        )

    def _mean(self) -> str:
        """The mean over layers, in words."""
        value, error = (self[name].item() for name in ("mean_difference", "mean_difference_error"))
        known = f" ± {error:.4f}" if np.isfinite(error) else ""
        return f"H differs by {value:+.4f}{known} nats in the mean layer"

    def _lines(self) -> str:
        """The mean layer, how many layers differ, and what pairs are worth."""
        data = self.dataset
        if data.attrs["samples"] < 2:
            return f"{self._mean()}\none pair of samples has no error"
        differ = int((data["difference_holm"] < 0.05).sum())
        ratio = (data["unpaired_error"] / data["difference_error"].where(data["difference_error"] > 0)).median().item()
        worth = f"\npairs make errors {ratio:.2g} times smaller than different samples would" if ratio > 1 else ""
        return (
            f"{self._mean()}, p {data['mean_difference_p'].item():.2g}\n"
            f"{differ} of {in_words(data.sizes['layer'], 'layer')} differ at p < 0.05 for all of them{worth}"
        )


def compare(
    ds: xr.Dataset,
    other: xr.Dataset,
    *,
    kind: Kinds = None,
    scaling: str | None = None,
    other_scaling: str | None = None,
    size: AnySize | None = None,
    other_size: AnySize | None = None,
) -> Comparison:
    """How the entropy of ``other`` differs from that of ``ds``: LoRA against base, float8 against bfloat16, two rules,
    two sizes.

    Samples of the same prompt and seed are pairs, and so are layers of the same path, heads and guidance branches of
    the same name, and sizes. Steps are averaged. Samples are independent, not layers, heads or steps: errors are those
    of the mean of the samples' own differences, by Student's t.

    Args:
        ds: a Dataset from `entropylab.measure` whose samples were kept apart.
        other: another one, or the same one with another scaling or size.
        kind: which layers, as for `entropylab.fit`.
        scaling: which scaling of ds; by default the only one, or "original" of several.
        other_scaling: which scaling of other; ``scaling`` by default.
        size: which size of ds; by default all that both have, or the only one of each.
        other_size: which size of other; ``size`` by default.

    Returns:
        `Comparison`; errors are NaN for one pair of samples.

    Raises:
        EntropyLabError: not such Datasets; samples were averaged; no sample, layer, head, branch or size is in both.

    Examples:
        >>> found = entropylab.compare(ds, ds, scaling="original", other_scaling="sqrt_log", size=96)
        >>> found["difference"].dims
        ('layer',)
        >>> print(found.summary())
        H of the other less H, in nats; ...
    """
    kind = kind_in(ds, kind)
    part = one_side(ds, kind, scaling, size)
    other_scaling = scaling if other_scaling is None else other_scaling
    other_size = size if other_size is None else other_size
    other_part = one_side(other, kind, other_scaling, other_size)
    names = [each for each in ("prompt", "seed") if each in part.coords and each in other_part.coords] or ["sample"]
    first, second = paired(entropy_of(part, names), entropy_of(other_part, names))
    mask = counted(first) & counted(second)
    places = np.flatnonzero(mask.any([dim for dim in mask.dims if dim != "layer"]))
    if not len(places):
        raise EntropyLabError("ds and other must share a head whose entropy is finite in both. Got none.")
    mean, other_mean = (
        averaged(each, mask, ("size", "sample", "layer")).mean("size", skipna=False).isel(layer=places)
        for each in (first, second)
    )
    known = np.flatnonzero(finite(mean + other_mean).all("layer"))
    if not len(known):
        raise EntropyLabError("ds and other must share a sample that was measured at every size. Got none.")
    mean, other_mean = mean.isel(sample=known), other_mean.isel(sample=known)
    data = {"entropy": mean.mean("sample"), "other_entropy": other_mean.mean("sample")}
    data |= {f"difference{what}": value for what, value in tested(other_mean - mean).items()}
    data["difference_holm"] = data["difference_p"].copy(data=holm(data["difference_p"].values))
    data["unpaired_error"] = (standard_error(mean) ** 2 + standard_error(other_mean) ** 2) ** 0.5
    overall = tested((other_mean - mean).mean("layer"))
    data |= {f"mean_difference{what}": value for what, value in overall.items()}
    own = [name for name in ("block", "part") if name in part.coords]
    rows = part["layer"].to_index().get_indexer(mean["layer"].values)
    result = xr.Dataset(data).assign_coords({name: ("layer", part[name].values[rows]) for name in own})
    both = [name for name in SETTINGS if name in part.attrs and name in other_part.attrs]
    differ = [name for name in both if part.attrs[name] != other_part.attrs[name]]
    for which, side, used in (("", part, first), ("other_", other_part, second)):
        labels = used["size"] if "size" in used.coords else side["size"]
        about = {"model": str(side.attrs.get("model", "")), "scaling": side.attrs["scaling"]}
        about["sizes"] = ", ".join(labels.values.astype(str))
        about["settings"] = ", ".join(f"{name} {side.attrs[name]}" for name in differ)
        result.attrs |= {f"{which}{name}": value for name, value in about.items()}
    return Comparison(
        result.assign_attrs(
            kind=part.attrs["kind"],
            samples=len(known),
            samples_left_out=part.sizes["sample"] + other_part.sizes["sample"] - 2 * len(known),
            layers_left_out=part.sizes["layer"] + other_part.sizes["layer"] - 2 * len(places),
        )
    )


def one_side(ds: xr.Dataset, kind: Kinds, scaling: str | None, size: AnySize | None) -> xr.Dataset:
    """What is compared of a Dataset, with dims size and sample."""
    part = chosen(ds, kind, scaling)
    if not part["entropy"].sizes.get("sample"):
        raise EntropyLabError(
            "ds and other must keep samples apart, which are paired: keep=('sample', ...). "
            f"Got dims {', '.join(map(str, part['entropy'].dims))}."
        )
    return with_known_samples(part if size is None else part.sel(size=[size_in(part, size)]))


def entropy_of(part: xr.Dataset, names: list[str]) -> xr.DataArray:
    """Entropy (size, sample, layer, ...), averaged over steps, its samples called by their ``names``."""
    entropy = part["entropy"].astype("float64")
    entropy = entropy.mean("step") if "step" in entropy.dims else entropy
    samples = pd.DataFrame({name: labels_of(part, name) for name in names})
    again = samples.groupby(names).cumcount()  # one that comes again is paired with such a one
    keys = samples.assign(again=again).astype(str).agg(", ".join, axis=1)
    plain = entropy.drop_vars([name for name in entropy.coords if name not in entropy.dims])
    return plain.assign_coords(sample=keys.values)


def labels_of(part: xr.Dataset, name: str) -> list[str]:
    """The prompt or seed of every sample as text; where Datasets were joined it may have a dim size, and gaps."""
    labels = []
    for values in part[name].broadcast_like(part["sample"]).transpose("sample", ...).values:
        known = pd.Series(np.ravel(values).tolist()).dropna().convert_dtypes().astype(str).unique()  # 1 of 1.0
        if len(known) > 1:
            raise EntropyLabError(f"a sample must have the same {name} at every size, or name one size. Got {known}.")
        labels.append("".join(known))
    return labels


def paired(first: xr.DataArray, second: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Both, of what both have: the same samples, layers, heads, branches and sizes in the same order.

    A size of each alone is paired with the other's; a dim that only one has is averaged.
    """
    if first.sizes["size"] == second.sizes["size"] == 1:
        first, second = first.drop_vars("size"), second.drop_vars("size")
    first, second = (
        one.mean([dim for dim in one.dims if dim not in other.dims])
        for one, other in ((first, second), (second, first))
    )
    shared, other = xr.align(first, second, join="inner")
    for dim in shared.dims:
        if not shared.sizes[dim]:
            what = "sample of the same prompt and seed" if dim == "sample" else str(dim)
            shown = " and ".join(str(one[dim].values.tolist()[:3]) for one in (first, second))
            raise EntropyLabError(f"ds and other must share a {what}. Got {shown}.")
    return shared.drop_vars("sample"), other.transpose(*shared.dims).drop_vars("sample")


def tested(difference: xr.DataArray) -> dict[str, xr.DataArray]:
    """Mean over samples, its standard error, 95% interval and two-sided p of no difference, by Student's t."""
    dof = difference.sizes["sample"] - 1
    mean, error = difference.mean("sample"), standard_error(difference)
    reach = stdtrit(dof, 0.975) * error if dof else error
    with np.errstate(divide="ignore", invalid="ignore"):
        t = abs(mean / error).where(mean != 0, 0 * error)  # what is the same in all samples does not differ
    p = xr.apply_ufunc(lambda t: 2 * stdtr(dof, -t), t) if dof else error
    return {"": mean, "_error": error, "_low": mean - reach, "_high": mean + reach, "_p": p}
