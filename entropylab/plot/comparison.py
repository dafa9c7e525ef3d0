"""What one model, rule or size changes of another's entropy, layer by layer."""

import numpy as np
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from ..law.compare import Comparison
from .style import BLACK, BLUE, GREY, axes_of, legend_above, name_layers


def compare(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """The difference of entropy in every layer with its 95% interval, and in the mean layer as a line.

    Args:
        comparison: from `entropylab.compare`.
        ax: Axes to draw on; the current ones by default.

    Returns:
        The Axes. Filled marks are layers that differ at p < 0.05, corrected for their number (Holm).

    Raises:
        EntropyLabError: not a comparison.

    Examples:
        >>> found = entropylab.compare(ds, ds, scaling="original", other_scaling="sqrt_log", size=96)
        >>> ax = entropylab.plot.compare(found)
        >>> ax.figure.savefig("compare.pdf")
    """
    if not isinstance(comparison, Comparison):
        raise EntropyLabError(f"comparison must be from entropylab.compare. Got {type(comparison).__name__}.")
    ax, rows = axes_of(ax), comparison.to_frame()
    place = np.arange(len(rows))
    reach = rows["difference_high"] - rows["difference"]
    if reach.notna().any():
        ax.errorbar(place, rows["difference"], reach, ls="", capsize=2, lw=0.8, color=BLUE)
    differs = rows["difference_holm"] < 0.05
    for chosen, fill, words in ((differs, BLUE, "differs (Holm, p < 0.05)"), (~differs, "white", "not told from 0")):
        if chosen.any():
            own = rows["difference"][chosen]
            ax.plot(place[chosen], own, "o", color=BLUE, markerfacecolor=fill, zorder=3, label=f"{words}: {len(own)}")
    ax.axhline(0, ls=":", color=GREY, lw=0.8)
    mean = comparison["mean_difference"].item()
    ax.axhline(mean, ls="--", color=BLACK, lw=0.8, label=f"mean layer, {mean:+.3f} nats")
    name_layers(ax, rows)
    ax.set(xlim=(-0.5, len(rows) - 0.5), xlabel="layer", ylabel="entropy, other less first [nats]")
    legend_above(ax)
    return ax
