"""Entropy of every layer under the rules, by what was drawn."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from entropylab import plot
from entropylab.errors import EntropyLabError
from entropylab.law import fit
from entropylab.law.drift import MEAN, drift

from ..datasets import BOTH
from .artists import lines, starting


def test_stabilization_draws_every_layer_in_order(ds, ax) -> None:
    assert plot.stabilization(ds, ax) is ax
    drawn = lines(ax)
    rows = drift(ds)
    for size in ("32x32", "128x128"):
        for rule in BOTH:
            line = starting(drawn, f"{size}, {rule}")
            own = rows[(rows["size"] == size) & (rows["scaling"] == rule) & (rows["layer"] != MEAN)]
            np.testing.assert_allclose(line.get_ydata(), own["entropy"])
    home = fit(ds, by="layer").to_dataset()["entropy"].sel(size="64x64")
    np.testing.assert_allclose(drawn["64x64, training size"].get_ydata(), home)
    assert "128x128, sqrt_log (30% of the mean drift removed)" in drawn
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["down 0", "down 1", "mid", "up 0", "up 1"]
    assert ax.get_xlabel().startswith("self-attention layer")
    assert ax.get_ylabel() == "attention entropy of a row [nats]"


def test_crosses_are_what_the_training_size_foresees(ds, ax) -> None:
    factor = np.sqrt(np.log(ds["tokens"]) / np.log(ds["train_tokens"]))
    multiplier = xr.concat([xr.ones_like(factor), factor], "scaling").transpose("size", "scaling", "layer")
    ds = ds.assign_coords(multiplier=multiplier.drop_vars(["tokens", "train_tokens"], errors="ignore"))
    ds = ds.assign(sensitivity=0.5 * ds["sigma2"])
    plot.stabilization(ds, ax)
    rows = drift(ds)
    own = rows[(rows["size"] == "32x32") & (rows["layer"] != MEAN)]
    before, after = (own[own["scaling"] == rule].reset_index() for rule in BOTH)
    wanted = before["entropy"] - after["predicted_fraction"] * before["drift"]
    np.testing.assert_allclose(lines(ax)["foreseen of the rules at the training size"].get_ydata(), wanted)
    assert abs(wanted - before["entropy"]).min() > 1e-3, "which is not where entropy was"


def test_lines_differ_without_colour(ds, ax) -> None:
    plot.stabilization(ds, ax)
    looks = {
        (line.get_linestyle(), line.get_marker(), line.get_markerfacecolor() == "white") for line in lines(ax).values()
    }
    assert len(looks) == 5
    assert len({(str(p["linestyle"]), p["marker"]) for p in plot.PAPER["axes.prop_cycle"]}) == 6


def test_sizes_and_scalings_can_be_chosen(ds, ax) -> None:
    plot.stabilization(ds, ax, sizes=(48, (96, 64)), scaling=())
    assert set(lines(ax)) == {"64x64, training size", "48x48, original", "96x64, original"}
    other = plot.stabilization(ds, Figure().subplots(), train_size=96)
    assert "96x96, training size" in lines(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (48, 50)}, "sizes must be two of those measured"),
        ({"sizes": (48,)}, "sizes must be two"),
        ({"sizes": (48.5, 64)}, "a size must be a label, a side or a pair.* Got 48.5"),
        ({"scaling": ["calibrated"]}, "scaling must be some of those measured.* Got"),
        ({"train_size": 50}, "train_size"),
        ({"kind": "joint"}, "kind='joint'"),
    ],
)
def test_what_can_not_be_drawn(ds, ax, options: dict, message: str) -> None:
    with pytest.raises(EntropyLabError, match=message):
        plot.stabilization(ds, ax, **options)
    assert not ax.get_lines()
