"""Numbers that readings and tables share, from the results of a view."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import spearmanr

from ..law.averages import averaged, counted, log_tokens, under
from ..law.checked import Check
from ..law.variables import FLAGS
from ..plot.layers import at_size
from .views import View

Array = np.ndarray


def median(values: Array) -> float:
    """Median of what is known; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def flag_counts(found: Check) -> dict[str, int]:
    """How many rows each flag is up in."""
    return {words: int(found[name].sum()) for name, words in FLAGS.items() if name in found.dataset}


def rank_correlation(layers: pd.DataFrame) -> float:
    """Spearman's rank correlation of deficit and sigma^2/2 over layers; NaN where one of them is constant."""
    if layers["deficit"].nunique() < 2 or layers["half_sigma2"].nunique() < 2:
        return np.nan
    return float(spearmanr(layers["half_sigma2"], layers["deficit"]).statistic)


def explained(found: Check) -> tuple[float, float, float]:
    """What `readings.checks.series` takes: the parts that k3 and k4 explain, and how often they come nearer."""
    warm = ~found["near_freezing"] & found["entropy"].notnull()
    off = {name: abs(found[f"{name}_residual"]) for name in ("law", "series")}
    parts = []
    for chosen in (warm, found["entropy"].notnull()):
        law, series = (float(off[name].where(chosen).sum()) for name in ("law", "series"))
        parts.append(1 - series / law if law > 0 else np.nan)
    nearer = (off["series"] < off["law"]).where(warm)
    return parts[0], parts[1], float(nearer.mean()) if bool(warm.any()) else np.nan


def finite_off(found: Check) -> tuple[float, float, int, int]:
    """What the finite-N value is off by where it is defined [nats], and the law there; in how many rows of how many."""
    defined = found["finite"].notnull()
    rows = int(defined.sum()), int(found["entropy"].notnull().sum())
    finite, law = (float(abs(found[f"{name}_residual"].where(defined)).mean()) for name in ("finite", "law"))
    return finite, law, *rows


def size_of(view: View) -> str:
    """The size that heads and steps are shown at: the training size, else that with the most tokens."""
    if isinstance(view.trained, str):
        return view.trained
    tokens = view.data["tokens"].mean("layer") if "layer" in view.data["tokens"].dims else view.data["tokens"]
    return view.sizes[int(np.argmax(np.atleast_1d(tokens)))]


def at_shown_size(view: View) -> xr.Dataset:
    """The view's layers as the model is, at that size."""
    return at_size(under(view.data, None)[0], size_of(view), view.kind)[0]


def normalised(view: View, keep: tuple[str, ...]) -> Array:
    """Entropy / log N at that size over the dims ``keep``."""
    part = at_shown_size(view)
    mean = averaged(part["entropy"], counted(part["entropy"]), keep)
    logs = log_tokens(part)
    return (mean / logs.where(logs > 0)).transpose(*keep).values


def by_step(view: View) -> Array:
    """Entropy [nats] at that size: (layer, step)."""
    part = at_shown_size(view)
    return averaged(part["entropy"], counted(part["entropy"]), ("layer", "step")).transpose("layer", "step").values


def freezing_ends(found: Check) -> tuple[Array, Array]:
    """Sigma^2 / (2 log N) of every layer, mean over heads, at the smallest and at the largest size."""
    ratio = found["freezing"].mean("head") if "head" in found["freezing"].dims else found["freezing"]
    order = np.argsort(found["log_tokens"].mean([d for d in found["log_tokens"].dims if d != "size"]).values)
    return ratio.isel(size=int(order[0])).values, ratio.isel(size=int(order[-1])).values


def expected_removal(view: View) -> float:
    """What the law says that the paper's factor removes, sigma_T^2 / (2 log T), in the median layer; NaN if unknown."""
    found: Any = view.check
    if not isinstance(found, Check) or not isinstance(view.trained, str):
        return np.nan
    home = found["freezing"].sel(size=view.trained)
    return float((home.mean("head") if "head" in home.dims else home).median())
