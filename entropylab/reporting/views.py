"""A run as a report sees it: what was measured, what the law makes of it, and why something can't be told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..dataset import check_ours
from ..errors import EntropyLabError, one_line
from ..law import fit
from ..law.averages import check as check_layers
from ..law.averages import counted, scalings_of, under
from ..law.checked import Check
from ..law.checks import check
from ..law.drift import drift, training_size
from ..law.joint import image_part
from ..law.naming import layer_names
from .joint import all_keys


@dataclass(frozen=True)
class Unknown:
    """What a run can't answer, and why; the reason goes on after "because"."""

    reason: str


ONE_SIZE = "only one size was measured, and a slope needs several"
NO_SIGMA2 = "σ² was not measured (--statistics entropy,sigma2)"


@dataclass(frozen=True, eq=False)
class View:
    """Some layers of a run, and what the law makes of them; each result is computed once, or `Unknown`.

    Attributes:
        label: the run's name.
        data: those layers alone, under every scaling.
        kind: of those layers.
    """

    label: str
    data: xr.Dataset
    kind: str = "self"

    @property
    def sizes(self) -> list[str]:
        """Labels of the sizes."""
        return [str(size) for size in np.atleast_1d(self.data["size"].values)]

    @property
    def scalings(self) -> list[str]:
        """Names of the scalings."""
        return scalings_of(self.data)

    @cached_property
    def names(self) -> dict[str, str]:
        """Module path -> a short name for it."""
        paths = [str(path) for path in self.data["layer"].values]
        return dict(zip(paths, layer_names(self.data), strict=True))

    @cached_property
    def line(self) -> Any:
        """`Fit` of the mean over layers, or `Unknown`."""
        return Unknown(ONE_SIZE) if len(self.sizes) < 2 else tried(lambda: fit(self.data, kind=self.kind))

    @cached_property
    def lines(self) -> Any:
        """`Fit` by layer, or `Unknown`."""
        return Unknown(ONE_SIZE) if len(self.sizes) < 2 else tried(lambda: fit(self.data, by="layer", kind=self.kind))

    @cached_property
    def check(self) -> Any:
        """`Check` of every layer, head and size, or `Unknown`."""
        return Unknown(NO_SIGMA2) if "sigma2" not in self.data else tried(lambda: check(self.data, kind=self.kind))

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """What the check knows of every row; only where there is a check."""
        return rows_of(self.check)

    @cached_property
    def layers(self) -> pd.DataFrame:
        """What the check knows of every layer, under short names; only where there is a check."""
        return self.named(self.check.layers())

    @cached_property
    def trained(self) -> Any:
        """Label of the training size, or `Unknown`."""
        try:
            return training_size(self.data, kind=self.kind)
        except EntropyLabError:
            known = "train_tokens" in self.data and bool(self.data["train_tokens"].notnull().all())
            why = "the training size is not among those measured" if known else "the training size is not known"
            return Unknown(f"{why}, and drift is counted from it")

    @cached_property
    def drift(self) -> Any:
        """The table of `entropylab.law.drift.drift`, or `Unknown`."""
        if isinstance(self.trained, Unknown):
            return self.trained
        if len(self.sizes) < 2:
            return Unknown("only the training size was measured")
        if "original" not in self.scalings:
            return Unknown('scaling "original" was not measured, and drift is counted from it')
        return tried(lambda: drift(self.data, kind=self.kind))

    def named(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A table with short names of its layers instead of paths."""
        return frame.assign(layer=frame["layer"].map(lambda path: self.names.get(path, path)))


Views = Mapping[str, View]
"""Label of a run -> a view of it."""


@dataclass(frozen=True, eq=False)
class Run:
    """A measured Dataset under a name.

    Attributes:
        label: the name.
        ds: the Dataset.
        own: its self-attention layers; None if it has none.
        image: the image's part of its joint layers, image rows among image keys; None if it has none.
        whole: the same rows among all their keys.
        partial: layers that are in none of them, because at some sizes, steps or samples they have no numbers.
    """

    label: str
    ds: xr.Dataset
    own: View | None
    image: View | None
    whole: View | None
    partial: tuple[str, ...] = ()


def tried(compute: Callable[[], Any]) -> Any:
    """A result, or `Unknown` with what the library said of it."""
    try:
        return compute()
    except EntropyLabError as error:
        return Unknown(f"of this: {one_line(error).rstrip('.')}")


def runs_of(datasets: Sequence[xr.Dataset], names: Sequence[str] | None) -> list[Run]:
    """Datasets as runs, each under a name of its own.

    Raises:
        EntropyLabError: none at all; not a Dataset of ours, one with layers averaged or with none that can be reported
            on; as many names as there are Datasets, each once, are not given.
    """
    if not datasets:
        raise EntropyLabError("ds must be a measured Dataset, or a list of at least one. Got an empty list.")
    for ds in datasets:
        check_layers(check_ours(ds))
    return [run_of(ds, label) for ds, label in zip(datasets, labels(datasets, names), strict=True)]


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


def run_of(ds: xr.Dataset, label: str) -> Run:
    """A Dataset as a run."""
    whole = ds if "layer" in ds.dims else ds.expand_dims("layer")
    kinds = whole["kind"].astype(str)
    own = whole.isel(layer=np.flatnonzero(kinds == "self"))
    found = [(own, "self"), (image_part(whole), "joint"), (all_keys(whole), "joint")]
    parts = [(part, throughout(part), kind) for part, kind in found if part is not None and part.sizes["layer"]]
    partial = [
        str(path) for part, kept, _ in parts for path in part["layer"].values if path not in kept["layer"].values
    ]
    of_kind = {id(part): View(label, one_sort(kept), kind) for part, kept, kind in parts}
    views = [of_kind.get(id(part)) for part, _ in found]
    if views[0] is None and views[1] is None:
        had = ", ".join(sorted(set(kinds.values.tolist())))
        raise EntropyLabError(
            f"ds must hold self-attention layers, or joint ones whose image rows are known. {label} has: {had}."
        )
    return Run(label, ds, views[0], views[1], views[2], tuple(dict.fromkeys(partial)))


def throughout(ds: xr.Dataset) -> xr.Dataset:
    """The layers that have numbers at every size, step and sample at which any has; all, if there is none such."""
    mask = tried(lambda: counted(under(ds, None)[0]["entropy"]))
    if isinstance(mask, Unknown):
        return ds
    return ds.isel(layer=np.flatnonzero(mask.any([dim for dim in mask.dims if dim != "layer"])))


def one_sort(ds: xr.Dataset) -> xr.Dataset:
    """The same without saying of every layer what its rows stand for, if that is the same in all of them."""
    alike = "part" in ds.coords and len(set(ds["part"].values.tolist())) == 1
    return ds.drop_vars("part") if alike else ds


def rows_of(found: Check) -> dict[str, np.ndarray]:
    """What is known of every row (layer, head and size) that was measured; ``free`` where it has no flag."""
    frame = found.to_frame()
    half = frame["half_sigma2"].where(frame["half_sigma2"] > 0)
    return {
        "ratio": (frame["deficit"] / half).to_numpy(float),
        "free": (frame["flags"] == "").to_numpy(),
        "freezing": frame["freezing"].to_numpy(float),
        "off": frame["law_residual"].abs().to_numpy(float),
    }
