"""The law where nothing is fitted: its residual by layer, what explains it, and how near the layers are to freezing."""

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

import entropylab
import shared


def measure(source: shared.Source) -> xr.Dataset:
    """Entropy and cumulants up to the fourth, as the model is: a lower size, the training size, a higher one.

    Third and fourth cumulant need a pass over the logits of their own, so there are fewer sizes and samples.
    """
    return source.measure(
        source.sizes((shared.LOWER, (1, 1), shared.HIGHER)),
        statistics=("entropy", "sigma2", "third", "fourth"),
        keep=("sample", "step", "layer", "head"),
        **source.sampling(2),
    )


def draw(ds: xr.Dataset, out: Path) -> None:
    """Three panels; a row for every layer, head and size."""
    found = entropylab.check(ds)
    panels = [entropylab.plot.law_residual, entropylab.plot.residual_vs_cumulants, entropylab.plot.phase]
    with plt.rc_context(entropylab.plot.PAPER):
        figure, axes = plt.subplots(1, 3, figsize=(11.4, 4.0), layout="constrained")
        for panel, ax in zip(panels, axes, strict=True):
            panel(ds, ax).legend(loc="lower center", bbox_to_anchor=(0.5, 1))
        shared.name_kind(figure, ds)
        shared.write(figure, out, "law_checks", found.to_frame())
    shared.write_table(found.smallest(), out, "smallest_n")


FILES = {"law.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
