"""Entropy maps to explore in a notebook: a control for everything that was kept apart, beside the picture."""

from base64 import b64encode
from io import BytesIO
from textwrap import fill
from threading import Lock
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ..errors import EntropyLabError
from ..sizes import size_label
from .maps import ACROSS, check_maps, entropy_map, values_of
from .samples import check_images

STRETCHED = 0.05
"""By how much the sides of a picture may be in another proportion than its size's: pipelines round sizes."""


def explore(maps: xr.DataTree, images: Any = None) -> "Explorer":
    """Entropy maps in a notebook, with controls beside the picture; as the last line of a cell it is shown.

    There is a control for everything of which there are several: size, layer, scaling, branch, sample, step, head and
    frame; steps and heads where they were kept (``keep=["branch", "layer", "step", "head"]``). Two more choose between
    nats and H / log N, and hold the colours while the rest changes. Without a kernel, as on GitHub, what is seen is the
    picture of when the cell ran.

    Args:
        maps: of `entropylab.record` with ``maps=True``, or of a file that `entropylab.measure` wrote with ``maps=``.
        images: the pictures that were sampled, PIL or arrays: a list with one for each sample. Of several sizes a dict
            of such lists by size: 64, (64, 96) or "64x96"; where a size has several rules, a dict by rule in the list's
            place.

    Raises:
        EntropyLabError: ipywidgets is missing (``pip install 'entropylab[notebook]'``); no such maps; pictures that
            are not as many as samples, not of every size and rule, or not in the proportions of their size.

    Examples:
        >>> with entropylab.record(pipe, maps=True, keep=["branch", "layer", "step", "head"]) as rec:
        ...     images = pipe("a red heart", num_inference_steps=2).images
        >>> view = entropylab.explore(rec.maps, images)
        >>> list(view.controls)
        ['branch', 'step', 'layer', 'head', 'units', 'hold']
    """
    return Explorer(maps, images)


class Explorer:
    """Controls and a picture, which a notebook shows.

    Attributes:
        controls: widgets by what they choose, "layer" or "step" say; each has a ``value``.
        box: the widget with all of them, for a layout of your own.
        ax: the Axes of the map that was drawn last.
        said: why there is no map of what the controls say, which then stands in its place; "" where there is one.
    """

    def __init__(self, maps: xr.DataTree, images: Any) -> None:
        try:
            import ipywidgets as widgets
        except ImportError:
            text = "explore needs ipywidgets, which is not here: pip install 'entropylab[notebook]'."
            raise EntropyLabError(text) from None
        self.ax: Any = None
        self.lock = Lock()
        self.maps, self.normalised, choices = maps, None, choices_of(maps)
        self.pictures = {} if images is None else pictures_of(maps, images, list(choices["size"]))
        self.only = {name: next(iter(found)) for name, found in choices.items() if len(found) == 1}
        self.controls: dict[str, Any] = {}
        for name, found in choices.items():
            if len(found) > 1:
                found = {"mean": "mean", **found} if name in ("step", "head") else found
                control = widgets.SelectionSlider if name in ("step", "head", "frame") else widgets.Dropdown
                options = [(label, value) for value, label in found.items()]
                first = next(value for value in ("mean", "original", "cond", *found) if value in found)
                self.controls[name] = control(options=options, value=first, description=name)
        self.controls["units"] = widgets.Dropdown(options=[("nats", False), ("H / log N", True)], description="units")
        self.controls["hold"] = widgets.Checkbox(description="hold colours")
        self.image = widgets.Image(format="png", width=500)
        self.box = widgets.HBox([widgets.VBox([*self.controls.values()]), self.image])
        for each in self.controls.values():
            each.observe(self.show, names="value")
        self.show()

    def show(self, _: Any = None) -> None:
        """Draw what the controls say, or say why that can't be; controls of JupyterLab call from several threads."""
        with self.lock:
            self.image.value = self.png()

    def png(self) -> bytes:
        """The picture as a file."""
        chosen = self.only | {name: control.value for name, control in self.controls.items()}
        chosen |= {name: None for name in ("step", "head") if chosen.get(name) == "mean"}
        normalised, hold = chosen.pop("units"), chosen.pop("hold")
        picture = self.pictures.get((chosen["size"], chosen["scaling"], chosen["sample"]))
        figure, self.said = Figure(figsize=(5, 4.2), layout="constrained"), ""
        try:
            ax = entropy_map(self.maps, picture, figure.subplots(), normalised=normalised, **chosen)
            shown: Any = ax.images[-1]
            ax.set_xlabel(f"mean {shown.get_array().mean():.2f}{'' if normalised else ' nats'}")
            if hold and normalised == self.normalised:
                shown.set_clim(self.ax.images[-1].get_clim())
            self.ax, self.normalised = ax, normalised
        except EntropyLabError as error:
            self.said = str(error)
            figure.clear()
            figure.text(0.5, 0.5, fill(self.said, 50), ha="center")
        file = BytesIO()
        figure.savefig(file, format="png", dpi=120)
        return file.getvalue()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The widget, and the picture for where widgets are not shown."""
        still = {"text/plain": "entropylab.explore(...)", "image/png": b64encode(self.image.value).decode()}
        return {**self.box._repr_mimebundle_(**options), **still}


def choices_of(maps: xr.DataTree) -> dict[str, dict[Any, str]]:
    """What there is to choose from of every name, at any size: values, and their labels."""
    found: dict[str, dict[Any, str]] = {name: {} for name in ACROSS}
    prompts: set[tuple[int, str]] = set()
    for size, tree in check_maps(maps).children.items():
        grids = [group.dataset for group in tree.children.values() if "y" in group.dims]
        for name in (set(ACROSS) - {"size", "layer", "word"}) if grids else ():
            found[name] |= values_of(maps, name, "*", {"size": size})
        kinds = {kind for ds in grids for kind in ds["kind"].values.tolist()}
        for kind in sorted(kinds, key=lambda kind: (kind not in ("self", "joint"), kind)):
            layers = values_of(maps, "layer", kind, {"size": size})
            every = {kind: f"{kind}: all"} if len(layers) > 1 else {}
            found["layer"] |= every | {path: f"{kind}: {label}" for path, label in layers.items()}
        for ds in grids:
            found["size"][size] = size
            if "prompt" in ds.coords:
                prompts |= {*zip(ds["sample"].values.tolist(), ds["prompt"].values.tolist(), strict=True)}
    if not found["size"]:
        raise EntropyLabError("maps must have maps of the image's tokens in them. Got none.")
    if len(dict(prompts)) == len(prompts):  # the same at every size
        found["sample"] |= dict(prompts)
    return found


def pictures_of(maps: xr.DataTree, images: Any, sizes: list[str]) -> dict[tuple[Any, ...], np.ndarray]:
    """The picture of every size, rule and sample."""
    found: dict[tuple[Any, ...], np.ndarray] = {}
    for size in sizes:
        at_size = one_of("size", images, size, sizes)
        rules, samples = (list(values_of(maps, name, "*", {"size": size})) for name in ("scaling", "sample"))
        for rule in rules:
            given = one_of("rule", at_size, rule, rules)
            pictures = list(given) if isinstance(given, list | tuple) or np.ndim(given) == 4 else [given]
            if len(pictures) != len(samples):
                wanted = f"images must be one for each of {len(samples)} samples at {size}"
                raise EntropyLabError(f"{wanted}. Got {len(pictures)}.")
            height, width = map(int, size.split("x"))
            for sample, picture in zip(samples, check_images([pictures])[0], strict=True):
                if abs(picture.shape[0] * width / (picture.shape[1] * height) - 1) > STRETCHED:
                    text = f"images at {size} must be as high for their width. Got one of shape {picture.shape}."
                    raise EntropyLabError(text)
                found[size, rule, sample] = picture
    return found


def one_of(name: str, given: Any, value: str, known: list[str]) -> Any:
    """What is given for one size or rule: in a dict, which it needs to be where there are several."""
    by = {size_label(key): each for key, each in given.items()} if isinstance(given, dict) else {}
    if value not in by and len(known) > 1:
        got = f"only {', '.join(by)}" if by else type(given).__name__
        raise EntropyLabError(f"images must be a dict by {name}, with {', '.join(known)} in it. Got {got}.")
    return by.get(value, given)
