"""Progress bars: a widget in a notebook that has widgets, text in one that has none and everywhere else."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Silence a pipeline's own progress bar."""
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    had = hasattr(pipe, "_progress_bar_config")
    try:
        if hasattr(pipe, "set_progress_bar_config"):
            pipe.set_progress_bar_config(**{**before, "disable": True})
        yield
    finally:
        if had:
            pipe._progress_bar_config = before
        elif hasattr(pipe, "_progress_bar_config"):
            del pipe._progress_bar_config


@contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Any]:
    """A bar over pixels, which take about equal time, with the time left."""
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left"
    with bar_class()(total=total, disable=not shown, bar_format=layout, leave=False) as bar:
        yield bar
