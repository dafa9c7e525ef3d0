"""What was drawn, by the data of the artists."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D


def lines(ax: Axes) -> dict[str, Line2D]:
    """The lines that the legend names."""
    return {str(line.get_label()): line for line in ax.get_lines() if not str(line.get_label()).startswith("_")}


def bars(ax: Axes) -> dict[str, ErrorbarContainer]:
    return {str(bar.get_label()): bar for bar in ax.containers if isinstance(bar, ErrorbarContainer)}


def starting(found: dict, word: str) -> Line2D:
    (line,) = [line for text, line in found.items() if text.startswith(word)]
    return line


def heights(bar: ErrorbarContainer) -> np.ndarray:
    """Half the length of every error bar, NaN where there is none."""
    ends = bar.lines[2][0].get_segments()
    return np.array([(end[1, 1] - end[0, 1]) / 2 if len(end) == 2 else np.nan for end in ends])
