"""Progress bars: a widget in a notebook that has widgets, text in one that has none and everywhere else."""

import warnings
from typing import Any


def bar_class() -> Any:
    """The class of tqdm that suits this place, without a warning where a notebook lacks widgets.

    tqdm warns when it is first imported; so this comes before diffusers, which imports it too.
    """
    from tqdm import TqdmWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm
    return tqdm


def in_notebook() -> bool:
    """Whether bars are widgets here."""
    return any(parent.__module__ == "tqdm.notebook" for parent in bar_class().__mro__)
