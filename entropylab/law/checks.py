"""The law put to the test where nothing is fitted: measured entropy beside log N - sigma^2/2 from measured sigma^2.

Knows Datasets, and nothing of tensors or models.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ..errors import EntropyLabError
from .averages import Kinds, averaged, counted, kinds_of, log_tokens, of_kind, over_samples, under
from .checked import EXPLANATIONS, Check
from .fitting import provenance
from .validity import THRESHOLDS, finite_entropy
from .variables import FLAGS, described

__all__ = ["Check", "check"]


def check(ds: xr.Dataset, *, kind: Kinds = "self", scaling: str | None = None) -> Check:
    """Entropy beside the law, with nothing fitted, for every size, layer and head; and what explains the difference.

    All in nats, each with its residual (measured entropy less it):

    - ``law``: log N - sigma^2/2 from measured sigma^2 (paper, Eq. 5);
    - ``third_order``: also - k3/3; ``series``: also - k4/8. Entropy is log N - sum over n of k_n (n-1)/n!, for logits
      of any distribution, of which the law is the first term. Only if "third" and "fourth" were measured; the series
      helps where its terms shrink, and past sigma^2 of about 2 they mostly do not;
    - ``finite``: the law for N independent Gaussian keys; NaN past e^sigma^2 = N.

    A Dataset holds means over query rows. Law and series are linear in the cumulants, so that the mean over rows of the
    law is the law of the means, exactly; only ``finite`` is not, and where rows differ much in sigma^2 it is too low.
    Means over branches, samples and steps are taken after it is computed, where the Dataset has them.

    Rows of the result are flagged by thresholds from simulation (`entropylab.law.validity.simulated_thresholds`), past
    which the law can be off by 0.1 nats:

    - ``skewed``: |k3|/3 + |k4|/8 > 0.05 nats; the logits are not Gaussian;
    - ``small_n``: the finite-N term > 0.16 nats; too few keys for this sigma^2;
    - ``near_freezing``: sigma^2 / (2 log N) > 0.22; few keys carry the rows, and the finite-N term fails as well.

    A row that is flagged may still be on the law. One that is not was within it in simulation, where keys are
    independent and rows alike; those of a model are neither.

    Args:
        ds: a Dataset from `entropylab.measure` with sigma2, and "third" and "fourth" if the series is of interest; one
            size or more; branch, sample, step and head may have been averaged away.
        kind: which layers, as for `entropylab.fit`; of "image" third and fourth cumulant are not known.
        scaling: which scaling; by default the only one, or "original" of several.

    Returns:
        `Check`, with standard errors over samples of entropy and residuals (where samples were averaged while
        measuring, the largest that they can be; NaN for one sample).

    Raises:
        EntropyLabError: not such a Dataset; no sigma2; no such layer or scaling.

    Examples:
        >>> ds = entropylab.simulate_dataset(tokens=(64, 1024), sigma=(0.5, 3.0))
        >>> found = entropylab.check(ds)
        >>> [round(off, 1) for off in found.layers().law_off]  # nats that the law is off by, for each sigma
        [0.0, 1.5]
        >>> found.flags.sel(size="8x8", layer="sigma 3", head=0).item()
        'skewed, small N, near freezing'
    """
    part, name = under(of_kind(ds, kind), scaling)
    if "sigma2" not in part:
        raise EntropyLabError(f"ds must hold sigma2, which the law is computed from. Got {sorted(map(str, part))}.")
    part = part if "size" in part["entropy"].dims else sized(part)
    keep = tuple(dim for dim in ("size", "layer", "head") if dim in part["entropy"].dims)
    logs = log_tokens(part)
    # Coordinates of layers, samples and sizes would be compared at every step, which takes most of the time.
    plain = part.drop_vars(list(part.coords)).assign(tokens=part["tokens"].variable, log_tokens=logs.variable)
    mask = counted(plain["entropy"])
    data = compared(plain, mask, keep)
    data = data.assign({flag: value.where(mask, False) for flag, value in flagged(data).items()})
    own = {str(n): value.variable for n, value in part.coords.items() if set(value.dims) <= set(keep) and value.dims}
    named = data.assign_coords({n: value for n, value in own.items() if n != "tokens"})
    attrs = {"kind": ", ".join(kinds_of(kind)), "scaling": name} | provenance(part, mask)
    return Check(described(named).assign_attrs(attrs))


def sized(part: xr.Dataset) -> xr.Dataset:
    """One size as a dim of length 1."""
    own = [
        str(n) for n in ("tokens", "height", "width", "multiplier") if n in part.coords and "size" not in part[n].dims
    ]
    whole = part.expand_dims("size")
    return whole.assign_coords({name: part[name].expand_dims("size") for name in own})


def compared(part: xr.Dataset, mask: xr.DataArray, keep: Sequence[str]) -> xr.Dataset:
    """Entropy, the law's terms, its predictions and their residuals; means over all dims but ``keep``."""
    cells = predictions(part)
    means = {key: averaged(value, mask, keep) for key, value in cells.items()}
    x = part["log_tokens"].broadcast_like(means["entropy"]).where(mask)
    data = {"tokens": part["tokens"].astype("float64").broadcast_like(x).where(mask), "log_tokens": x, **means}
    data["entropy_error"] = over_samples(part, averaged(part["entropy"], mask, (*keep, "sample")), mask, keep)
    data["deficit"] = x - means["entropy"]
    data["half_sigma2"] = means["sigma2"] / 2
    data["freezing"] = data["half_sigma2"] / x.where(x > 0)
    for key in EXPLANATIONS:
        if key in cells:
            data[key] = means[key].where(np.isfinite(means[key]))
            data[f"{key}_residual"] = means["entropy"] - data[key]
            data[f"{key}_residual_error"] = residual_error(part, cells, means, key, mask, keep)
    if "series" in data:
        data["correction"] = -means["third"] / 3 - means["fourth"] / 8
    data["finite_term"] = data["finite"] - data["law"]
    return xr.Dataset({key: value.transpose(*keep, ...) for key, value in data.items()})


def predictions(part: xr.Dataset) -> dict[str, xr.DataArray]:
    """What was measured and what is predicted from it, cell by cell; infinite where nothing can be said."""
    names = [name for name in ("entropy", "sigma2", "third", "fourth") if name in part]
    found = {name: part[name].astype("float64") for name in names}
    known = np.isfinite(found["sigma2"])
    found["law"] = part["log_tokens"] - found["sigma2"] / 2
    finite = xr.apply_ufunc(finite_entropy, found["sigma2"], part["tokens"].astype("float64"))
    # A mean that leaves out what is past validity would be one of the tame rows only.
    found["finite"] = finite.where(np.isfinite(finite) | ~known, np.inf)
    if "third" in found:
        found["third_order"] = found["law"] - found["third"] / 3
        if "fourth" in found:
            found["series"] = found["third_order"] - found["fourth"] / 8
    return found


def residual_error(
    part: xr.Dataset,
    cells: dict[str, xr.DataArray],
    means: dict[str, xr.DataArray],
    key: str,
    mask: xr.DataArray,
    keep: Sequence[str],
) -> xr.DataArray:
    """Standard error over samples of a residual: of its own values, or the largest that those of its terms allow."""
    if "sample" in part["entropy"].dims:
        residual = averaged(cells["entropy"] - cells[key].where(np.isfinite(cells[key])), mask, (*keep, "sample"))
        return over_samples(part, residual, mask, keep)
    weights = {"entropy": 1.0, "sigma2": 0.5, "third": 1 / 3, "fourth": 1 / 8}
    used = list(weights)[: {"law": 2, "third_order": 3, "series": 4}.get(key, 0)]
    unknown = means["entropy"] * np.nan
    parts = [weights[name] * over_samples(part, means[name], mask, keep, name) for name in used]
    return sum(parts[1:], parts[0]) if parts else unknown


def flagged(data: xr.Dataset) -> dict[str, xr.DataArray]:
    """Where each of `FLAGS` is up."""
    few = ~(data["finite_term"] <= THRESHOLDS.small_n)
    cold = ~(data["freezing"] <= THRESHOLDS.near_freezing)
    found = {"small_n": few, "near_freezing": cold}
    if "fourth" in data and "third" in data:
        found["skewed"] = abs(data["third"]) / 3 + abs(data["fourth"]) / 8 > THRESHOLDS.skewed
    return {flag: found[flag] for flag in FLAGS if flag in found}
