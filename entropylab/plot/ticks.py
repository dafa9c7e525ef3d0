"""Names of layers and sizes under an axis."""

import pandas as pd
from matplotlib.axes import Axes

from ..law.names import short
from .style import GREY


def name_layers(ax: Axes, layers: pd.DataFrame) -> None:
    """Blocks under the axis, a faint line between them; as many names as fit."""
    blocks = layers["block"].tolist() if "block" in layers else layers["layer"].tolist()
    starts = [place for place, block in enumerate(blocks) if place == 0 or block != blocks[place - 1]]
    for start in starts[1:]:
        ax.axvline(start - 0.5, color=GREY, lw=0.4, zorder=0)
    ends = [*starts[1:], len(blocks)]
    shown = spread(len(starts), 15)
    names = [elided(short(blocks[starts[place]])) for place in shown]
    ax.set_xticks([(starts[place] + ends[place] - 1) / 2 for place in shown], names)
    if max(map(len, names)) * len(names) > 40:
        for text in ax.get_xticklabels():
            text.set(rotation=30, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="x", length=0)


def elided(text: str, letters: int = 22) -> str:
    """A name with its middle left out if it is longer than so many letters; ends tell layers apart."""
    half = letters // 2
    return text if len(text) <= letters else f"{text[: half - 1]}…{text[-half:]}"


def spread(number: int, most: int) -> range:
    """Evenly spaced places of at most so many of a number of labels, the first included."""
    return range(0, number, max(1, -(-number // most)))
