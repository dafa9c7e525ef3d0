"""A run as a report sees it: its layers, what the law makes of them, and why something can't be told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..dataset import check_ours
from ..errors import EntropyLabError, one_line
from ..law import fit
from ..law.averages import averaged, counted, image_part, image_rows, log_tokens, scalings_of, under, with_layers
from ..law.averages import check as check_layers
from ..law.check import check
from ..law.drift import cancelling, drift, training_size
from ..law.lines import holm
from ..law.names import layer_names


@dataclass(eq=False)
class View:
    """Some layers of a run, under every scaling, and what the law makes of them.

    What can't be told is None, and ``why`` has the reason by its name, which goes on after "because". Tables name
    layers by their short names. ``left_out`` are layers that at some sizes, steps or samples have no numbers.
    """

    label: str
    data: xr.Dataset
    kind: str
    tolerance: float
    left_out: list[str]
    why: dict[str, str] = field(default_factory=dict)
    sizes: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    trained: str | None = None
    shown_size: str = ""  # at which heads and steps are shown
    line: Any = None  # of the mean over layers
    lines: Any = None
    points: Any = None
    check: Any = None
    rows: Any = None  # of the check, with ratio of deficit and sigma^2/2, off |law_residual|, free of flags
    layers: Any = None
    smallest: Any = None
    freezing: Any = None  # sigma^2/(2 log N) by layer (rows), at every N (columns, smallest first)
    drift: Any = None
    mean_drift: Any = None
    removed: Any = None  # by each rule of the layers' own drifts, mean over sizes
    heads: Any = None  # entropy / log N by layer (rows) and head (columns)
    head_ranges: Any = None
    steps: Any = None  # entropy [nats] by layer at the first, middle and last step

    def __post_init__(self) -> None:
        self.sizes = [str(size) for size in np.atleast_1d(self.data["size"].values)]
        self.rules = [name for name in scalings_of(self.data) if name != "original"]
        names = dict(zip(map(str, self.data["layer"].values), layer_names(self.data), strict=True))
        self._fit(names)
        self._check(names)
        self._drift()
        self._heads_and_steps()

    def tried(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result, or None with what the library said of it in ``why``."""
        try:
            return compute()
        except EntropyLabError as error:
            self.why[name] = f"of this: {one_line(error).rstrip('.')}"
            return None

    def _fit(self, names: dict[str, str]) -> None:
        """The lines; p of layers corrected for their number (Holm)."""
        if len(self.sizes) < 2:
            self.why["line"] = "only one size was measured, and a slope needs several"
            return
        self.line = self.tried("line", lambda: fit(self.data, kind=self.kind))
        by_layer = self.tried("lines", lambda: fit(self.data, by="layer", kind=self.kind))
        if self.line is not None:
            self.points = self.line.points().sort_values("tokens", kind="stable")
        if by_layer is not None:
            frame = by_layer.to_frame().replace({"layer": names})
            self.lines = frame.assign(p=holm(frame["slope_p"]))

    def _check(self, names: dict[str, str]) -> None:
        """The law with nothing fitted."""
        if "sigma2" not in self.data:
            self.why["check"] = "σ² was not measured (--statistics entropy,sigma2)"
            return
        found = self.tried("check", lambda: check(self.data, kind=self.kind))
        if found is not None and not found["law_residual"].notnull().any():
            self.why["check"] = "no layer has both entropy and σ²"
            found = None
        self.check = found
        if found is None:
            return
        tables = (found.to_frame(), found.layers(), found.smallest(self.tolerance))
        rows, self.layers, self.smallest = (table.replace({"layer": names}) for table in tables)
        rows = rows.dropna(subset="law_residual", ignore_index=True)  # of some σ² may not be known
        ratio = rows["deficit"] / rows["half_sigma2"].where(rows["half_sigma2"] > 0)
        self.rows = rows.assign(ratio=ratio, off=rows["law_residual"].abs(), free=rows["flags"] == "")
        self.freezing = rows.groupby(["layer", "size"])["freezing"].mean().unstack("size")
        self.freezing = self.freezing[rows.groupby("size")["log_tokens"].mean().sort_values(kind="stable").index]

    def _drift(self) -> None:
        """The training size, and the drift away from it."""
        tokens = self.data["tokens"]
        largest = np.argmax(np.atleast_1d(tokens.mean("layer") if "layer" in tokens.dims else tokens))
        self.trained = self.tried("drift", lambda: training_size(self.data, kind=self.kind))
        self.shown_size = self.trained or self.sizes[int(largest)]
        if self.trained is None:
            known = "train_tokens" in self.data and bool(self.data["train_tokens"].notnull().all())
            why = "is not among those measured" if known else "is not known"
            self.why["drift"] = f"the training size {why}, and drift is counted from it"
        elif len(self.sizes) < 2:
            self.why["drift"] = "only the training size was measured"
        elif "original" not in scalings_of(self.data):
            self.why["drift"] = 'scaling "original" was not measured, and drift is counted from it'
        else:
            self.drift = self.tried("drift", lambda: drift(self.data, kind=self.kind))
        if self.drift is None:
            return
        self.drift = self.drift[self.drift["size"] != self.trained]
        mean = self.drift[self.drift["layer"] == "mean"].copy()
        mean.loc[mean["size"].isin(cancelling(mean)), ["fraction_removed", "fraction_removed_error"]] = np.nan
        mean.loc[mean["scaling"] == "original", [name for name in mean if "fraction_removed" in name]] = np.nan
        self.removed = mean.groupby("scaling")["absolute_fraction_removed"].mean().loc[self.rules]
        self.mean_drift = mean  # the model as it is removes nothing, which is not 0%

    def _heads_and_steps(self) -> None:
        """Entropy as the model is, at one size."""
        self.why["heads"] = "heads were averaged, or there is one, or none has more than one key"
        self.why["steps"] = "steps were averaged, or there is one"
        part = self.tried("original", lambda: under(self.data, None)[0])
        if part is None:
            return
        part = part.isel(size=self.sizes.index(self.shown_size)) if "size" in part.dims else part
        mask = self.tried("original", lambda: counted(part["entropy"]))
        if mask is None:
            return
        logs, names = log_tokens(part), pd.Index(layer_names(part), name="layer")
        if part["entropy"].sizes.get("head", 1) > 1:
            values = averaged(part["entropy"], mask, ("layer", "head")) / logs.where(logs > 0)
            heads = pd.DataFrame(values.transpose("layer", "head").values, names, part["head"].values)
            heads = heads.dropna(how="all")
            self.heads = heads if len(heads) else None
            self.head_ranges = heads.agg(["count", "min", "mean", "max"], axis=1).reset_index() if len(heads) else None
        if part["entropy"].sizes.get("step", 1) > 1:
            by_step = averaged(part["entropy"], mask, ("layer", "step")).transpose("step", "layer").values
            first, middle, last = by_step[0], by_step[len(by_step) // 2], by_step[-1]
            steps = {"first": first, "middle": middle, "last": last, "change": last - first}
            self.steps = pd.DataFrame(steps, names).reset_index()

    @property
    def within_layers(self) -> float:
        """The part of the variance over heads that is within layers; NaN with one layer, or without variance."""
        total = float(np.nansum((self.heads - np.nanmean(self.heads)) ** 2))
        if len(self.heads) < 2 or self.heads.count(axis=1).max() < 2 or total <= 0:
            return np.nan
        return float(np.nansum(self.heads.sub(self.heads.mean(axis=1), axis=0) ** 2)) / total

    @property
    def chain(self) -> pd.DataFrame:
        """What the entropy of image rows is made of [nats], by size; only of a view of these rows."""
        names = ["entropy", *(f"entropy_{name}" for name in ("between", "from_image", "from_text", "from_other"))]
        names = [name for name in (*names, "mass_image", "keys_image") if name in self.data]
        data = under(self.data, None)[0][names].astype("float64")
        mean = data.mean([dim for dim in data.dims if dim not in ("size", "layer")])
        mean = mean if "size" in mean.dims else mean.expand_dims("size")
        mean = mean.assign(share=mean["keys_image"] / self.data["tokens"]).mean("layer")
        return mean.to_dataframe().reset_index().sort_values("keys_image", kind="stable")

    @property
    def answers(self) -> dict[str, bool]:
        """What is asked of every model that stands beside others, where it can be told."""
        found = {}
        if self.line is not None and np.isfinite(self.line.slope_test[1]):
            found["slow"] = bool(self.line.slope < 1 and self.line.slope_test[1] < 0.05)
        if self.check is not None:
            found["holds"] = bool((self.layers["law_off"] <= self.tolerance).mean() > 0.5)
            found["overstated"] = bool(self.rows["ratio"].median() < 0.9)
            if self.rows["free"].any():
                found["holds_unflagged"] = bool(self.rows["off"][self.rows["free"]].median() <= self.tolerance)
        return found


@dataclass(frozen=True, eq=False)
class Run:
    """A measured Dataset under a name.

    ``own`` is what the report is about: self-attention layers or, where it has none, the image's part of joint ones:
    ``image``, image rows among image keys. ``whole`` are the same rows among all their keys.
    """

    label: str
    ds: xr.Dataset
    own: View
    image: View | None
    whole: View | None

    @property
    def views(self) -> list[View]:
        """Those that there are, each once, the one that the report is about first."""
        return [view for view in dict.fromkeys((self.own, self.image, self.whole)) if view is not None]


def runs_of(datasets: Sequence[xr.Dataset], names: Sequence[str] | None, tolerance: float) -> list[Run]:
    """Datasets as runs, each under a name of its own.

    Raises:
        EntropyLabError: none at all; not a Dataset of ours, one with layers averaged or with none that can be reported
            on; as many names as there are Datasets, each once, are not given.
    """
    if not datasets:
        raise EntropyLabError("ds must be a measured Dataset, or a list of at least one. Got an empty list.")
    datasets = [check_layers(check_ours(ds)).compute() for ds in datasets]
    parts = [(label, ds, parts_of(ds, label)) for ds, label in zip(datasets, labels(datasets, names), strict=True)]
    runs = []
    for label, ds, found in parts:  # only now, when all are known to be good, does the work begin
        own, image, whole = (view_of(part, label, kind, tolerance) for part, kind in found)
        if (about := own or image) is not None:  # as `parts_of` has made sure
            runs.append(Run(label, ds, about, image, whole))
    return runs


def labels(datasets: Sequence[xr.Dataset], names: Sequence[str] | None) -> list[str]:
    """The names given, or the models', numbered where they are the same."""
    if names is not None:
        if isinstance(names, str) or len(names) != len(datasets) or len(set(names)) < len(names) or not all(names):
            raise EntropyLabError(f"names must be {len(datasets)} different names, one a run. Got {names!r}.")
        return [str(name) for name in names]
    models = [str(ds.attrs.get("model") or "model") for ds in datasets]
    return [
        f"{name} ({models[:place].count(name) + 1})" if models.count(name) > 1 else name
        for place, name in enumerate(models)
    ]


def parts_of(ds: xr.Dataset, label: str) -> list[tuple[xr.Dataset | None, str]]:
    """What the views of a `Run` are of, in their order, each with the kind of its layers."""
    whole = with_layers(ds)
    kinds = whole["kind"].astype(str).values
    own, image = whole.isel(layer=np.flatnonzero(kinds == "self")), image_part(whole)
    if not own.sizes["layer"] and image is None:
        raise EntropyLabError(
            "ds must hold self-attention layers, or joint ones whose image rows are known. "
            f"{label} has: {', '.join(sorted(set(kinds.tolist())))}."
        )
    return [(own, "self"), (image, "joint"), (image_rows(whole), "joint")]


def view_of(part: xr.Dataset | None, label: str, kind: str, tolerance: float) -> View | None:
    """Those layers that have numbers at every size, step and sample at which any has; all, if there is none such."""
    if part is None or not part.sizes["layer"]:
        return None
    try:
        mask = counted(under(part, None)[0]["entropy"])
        full = mask.any([dim for dim in mask.dims if dim != "layer"]).values
    except EntropyLabError:
        full = np.ones(part.sizes["layer"], bool)
    kept = part.isel(layer=np.flatnonzero(full))
    if "part" in kept.coords and len(set(kept["part"].values.tolist())) == 1:  # then it need not be said of each
        kept = kept.drop_vars("part")
    return View(label, kept, kind, tolerance, part["layer"].values[~full].astype(str).tolist())
