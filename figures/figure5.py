"""Figure 5: attention entropy, and its deficit, against the logarithm of the number of tokens, by training size."""

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

import entropylab
import shared

STATISTICS = ("entropy", "sigma2", "gaussian", "slope", "rarefied")


def measure(source: shared.Source) -> xr.Dataset:
    """The model as it is, at all sizes, with what predicts its entropy."""
    options = {"scaling": ["original"], "statistics": STATISTICS, **source.sampling()}
    return source.measure(source.sizes(), **options)


def draw(ds: xr.Dataset, out: Path) -> None:
    """A column for each number of training tokens: entropy above, the deficit below, and what predicts them."""
    rows = entropylab.plot.predictions(ds)
    trained = rows["train_tokens"].drop_duplicates()
    shape = (3.6 * len(trained), 5.4)
    with plt.rc_context(entropylab.plot.PAPER):
        figure, axes = plt.subplots(2, len(trained), figsize=shape, sharex="col", layout="constrained", squeeze=False)
        for (above, below), tokens in zip(axes.T, trained, strict=True):
            entropylab.plot.entropy_predicted(ds, above, trained=tokens)
            entropylab.plot.entropy_predicted(ds, below, trained=tokens, deficit=True)
            above.set(xlabel="", title=shared.title(ds, tokens))
            above.legend(loc="upper left")
            below.get_legend().remove()
        shared.write(figure, out, "figure5", rows)


FILES = {"figure5.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
