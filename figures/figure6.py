"""Figure 6: entropy of every self-attention layer at a lower and a higher size, as the model is and rescaled."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import entropylab
import shared
from entropylab.law.drift import drift


def measure(source: shared.Source) -> xr.Dataset:
    """Every size under every rule, from the same seeds and prompts."""
    calibration = source.calibrated()
    rules = [*shared.RULES, calibration.invariant, calibration.calibrated]
    options = source.sampling() | {"samples": source.samples or shared.SAMPLES}
    statistics = ("entropy", "sigma2", "sensitivity")
    return entropylab.measure(source.pipe, source.sizes(), scaling=rules, statistics=statistics, **options)


def draw(ds: xr.Dataset, out: Path) -> None:
    """One panel, with the training size as reference and what it foresees; calibrated rules are in the table only."""
    rules = [str(rule) for rule in np.atleast_1d(ds["scaling"]) if rule not in ("invariant", "calibrated")]
    with plt.rc_context(entropylab.plot.PAPER):
        figure, ax = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
        entropylab.plot.stabilization(ds, ax, scaling=rules)
        shared.write(figure, out, "figure6", drift(ds))


FILES = {"measurement.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
