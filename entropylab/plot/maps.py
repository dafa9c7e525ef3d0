"""Maps over the picture, side by side, and through the steps: where attention looks widely, and what it looks at."""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize

from ..errors import EntropyLabError, names_of
from ..law.names import names_by_layer
from ..sizes import AnySize, size_label
from .samples import check_images, corners_of, label_grid
from .style import axes_of

LABELS = {
    "entropy": ("attention entropy [nats]", "entropy / log N, 1 is uniform"),
    "received": ("received attention [fraction]", "received attention x N, 1 is uniform"),
    "words": ("weight on the word [fraction]", "weight on the word [fraction]"),
}
"""What a scale of colours says of each variable, and of it normalised."""

KINDS = {"words": ("cross", "joint")}
"""Kinds of the layers whose mean is drawn, where they are not self and joint."""

ACROSS = ("size", "scaling", "branch", "sample", "step", "layer", "head", "frame", "word")
"""What panels may differ in."""

CROWDED = 30
"""Letters above columns of panels, from which on they are turned."""

COLOURS = "viridis"
VEIL = ListedColormap(mpl.colormaps[COLOURS](np.arange(256)) * [1, 1, 1, 0.65])
"""The same over a picture, which shines through."""

LUMA = (0.299, 0.587, 0.114)
"""Red, green and blue in grey (ITU-R BT.601)."""


def entropy_map(
    maps: xr.DataTree,
    image: Any = None,
    ax: Axes | None = None,
    *,
    variable: str | None = None,
    layer: str | Sequence[str] | None = None,
    normalised: bool = False,
    limits: tuple[float, float] | None = None,
    colorbar: bool = True,
    **chosen: Any,
) -> Axes:
    """The entropy of every token of the image in its place, or how much it is looked at, over the picture if given.

    Args:
        maps: of `entropylab.record` with ``maps=True``, ``received=True`` or ``words=``, or of a file that
            `entropylab.measure` wrote with ``maps=``.
        image: the picture that was sampled: PIL, or an array (height, width, 3); it is shown in grey under the map.
        ax: Axes to draw on; the current ones by default.
        variable: "entropy"; "received", the weight that a token gets, mean over rows; or "words", the weight that it
            gives to a ``word``. By default words where a word is chosen, else entropy.
        layer: which layers, the mean of several: kinds, or patterns of layer paths ("*attn1"). By default self and
            joint, of words cross and joint. Coarse grids count as fine ones whose tokens repeat.
        normalised: draw entropy / log N, which lies between 0 and 1 in every layer and at every size; and received
            attention times N, which is 1 where it is uniform.
        limits: lowest and highest value of the colours; those of the map by default.
        colorbar: whether to draw a scale.
        chosen: one of what was kept apart: ``size``, ``scaling``, ``branch``, ``sample``, ``step``, ``head``,
            ``frame`` or ``word``. By default the only one; of several the scaling "original", the branch "cond", the
            first sample and frame, and the mean over steps and heads.

    Returns:
        The Axes, in pixels of the image.

    Raises:
        EntropyLabError: no such maps, layers, or choice.

    Examples:
        >>> with entropylab.record(pipe, maps=True) as rec:
        ...     image = pipe("a red heart", num_inference_steps=2).images[0]
        >>> ax = entropylab.plot.entropy_map(rec.maps, image, layer="self")
        >>> ax.figure.savefig("map.pdf")
        >>> with entropylab.record(pipe, words="heart") as rec:
        ...     image = pipe("a red heart", num_inference_steps=2).images[0]
        >>> ax = entropylab.plot.entropy_map(rec.maps, image, word="heart")
    """
    variable = variable or default_variable(chosen)
    found = map_of(maps, layer, normalised, chosen, variable)
    ax = axes_of(ax)
    shown = draw(ax, found, image, (0.0, 0.0), sides(found)[1], Normalize(*(limits or limits_of([found]))))
    frame(ax, found)
    if colorbar:
        scale(ax, shown, normalised, variable)
    return ax


def entropy_maps(
    maps: xr.DataTree,
    images: Sequence[Sequence[Any]] | None = None,
    ax: Axes | None = None,
    *,
    rows: str = "size",
    columns: str = "scaling",
    variable: str | None = None,
    layer: str | Sequence[str] | None = None,
    normalised: bool = True,
    limits: tuple[float, float] | None = None,
    **chosen: Any,
) -> Axes:
    """Entropy maps side by side, on one scale: rules across and sizes down, or steps and layers, say.

    Args:
        maps: as for `entropy_map`.
        images: a list of rows, each a list of as many pictures as there are columns.
        ax: Axes to draw on; the current ones by default.
        rows: what the rows differ in: size, scaling, branch, sample, step, layer, head, frame or word.
        columns: what the columns differ in.
        variable: as for `entropy_map`.
        layer: as for `entropy_map`.
        normalised: as for `entropy_map`.
        limits: lowest and highest value of the colours; those of all maps by default.
        chosen: as for `entropy_map`.

    Raises:
        EntropyLabError: as `entropy_map`; rows or columns that are no such word; pictures that are not as many.

    Examples:
        >>> with entropylab.record(pipe, maps=True, keep=["layer", "step"]) as rec:
        ...     image = pipe("a red heart", num_inference_steps=2).images[0]
        >>> ax = entropylab.plot.entropy_maps(rec.maps, rows="layer", columns="step", layer="self")
        >>> ax.figure.savefig("maps.pdf")
    """
    if rows == columns or {rows, columns} - set(ACROSS):
        raise EntropyLabError(f"rows and columns must be two of {', '.join(ACROSS)}. Got {rows!r} and {columns!r}.")
    variable = variable or default_variable({**chosen, rows: None, columns: None})
    down, across = (values_of(maps, name, layer, chosen, variable) for name in (rows, columns))
    if not down or not across:
        raise EntropyLabError(f"maps must have {rows if not down else columns} kept apart, not averaged.")
    pictures: list[list[Any]] = [[None] * len(across)] * len(down)
    pictures = pictures if images is None else [*check_images(images)]
    if (len(pictures), len(pictures[0])) != (len(down), len(across)):
        raise EntropyLabError(f"images must be {len(down)} rows of {len(across)} pictures, as there are maps.")
    grid = []
    for value in down:
        named = [{**chosen, rows: value, columns: other} for other in across]
        grid.append([map_of(maps, each.pop("layer", layer), normalised, each, variable) for each in named])
    ax, norm = axes_of(ax), Normalize(*(limits or limits_of([panel for line in grid for panel in line])))
    tall = [[height / width for height, width in map(sides, line)] for line in grid]
    for corners, line, over in zip(corners_of(tall), grid, pictures, strict=True):
        for corner, panel, picture in zip(corners, line, over, strict=True):
            shown = draw(ax, panel, picture, corner, 1.0, norm)
    label_grid(ax, tall, list(down.values()), list(across.values()))
    if len(across) * max(map(len, across.values())) > CROWDED:
        for text in ax.get_xticklabels():
            text.set(rotation=35, ha="left", rotation_mode="anchor")
    scale(ax, shown, normalised, variable)
    return ax


def animate(
    maps: xr.DataTree,
    image: Any = None,
    ax: Axes | None = None,
    *,
    variable: str | None = None,
    layer: str | Sequence[str] | None = None,
    normalised: bool = False,
    limits: tuple[float, float] | None = None,
    interval: float = 400.0,
    **chosen: Any,
) -> FuncAnimation:
    """Entropy maps through the denoising steps, as an animation of matplotlib.

    Args:
        maps: as for `entropy_map`; steps must have been kept (``keep=["layer", "step"]``).
        image: the picture, or a list of one for each step.
        ax: Axes to draw on; the current ones by default.
        variable: as for `entropy_map`.
        layer: as for `entropy_map`.
        normalised: as for `entropy_map`.
        limits: lowest and highest value of the colours; those of all steps by default.
        interval: time of a step [ms].
        chosen: as for `entropy_map`.

    Returns:
        The animation: ``.save("maps.gif", writer="pillow")``, or ``.to_jshtml()`` in a notebook.

    Raises:
        EntropyLabError: as `entropy_map`; steps were averaged; pictures that are not as many as steps.

    Examples:
        >>> with entropylab.record(pipe, maps=True, keep=["layer", "step"]) as rec:
        ...     image = pipe("a red heart", num_inference_steps=2).images[0]
        >>> entropylab.plot.animate(rec.maps, image).save("maps.gif", writer="pillow")
    """
    variable = variable or default_variable(chosen)
    steps = values_of(maps, "step", layer, chosen, variable)
    if not steps:
        raise EntropyLabError("maps must have step kept apart, not averaged: keep=['layer', 'step'].")
    panels = [map_of(maps, layer, normalised, {**chosen, "step": step}, variable) for step in steps]
    pictures = list(image) if isinstance(image, list | tuple) else [image] * len(steps)
    if len(pictures) != len(steps):
        raise EntropyLabError(f"image must be a picture, or one for each of {len(steps)} steps. Got {len(pictures)}.")
    ax, limits = axes_of(ax), limits or limits_of(panels)

    def at(step: int) -> list[Any]:
        for artist in [*ax.images]:
            artist.remove()
        draw(ax, panels[step], pictures[step], (0.0, 0.0), sides(panels[step])[1], Normalize(*limits))
        ax.set_title(f"step {step + 1} of {len(steps)}")
        return [*ax.images]

    frame(ax, panels[0])
    at(0)
    scale(ax, ax.images[-1], normalised, variable)
    return FuncAnimation(ax.figure, at, frames=len(steps), interval=interval)  # type: ignore[arg-type]


def default_variable(chosen: Iterable[str]) -> str:
    """What maps are drawn of by what is chosen."""
    return "words" if "word" in chosen else "entropy"


def sides(panel: xr.DataArray) -> tuple[float, float]:
    """Height and width [pixels] of the picture that a map (y, x) lies over."""
    height, width = (float(panel[side][0] + panel[side][-1]) for side in ("y", "x"))
    return height, width


def draw(ax: Axes, panel: xr.DataArray, image: Any, corner: tuple[float, float], width: float, norm: Normalize) -> Any:
    """Draw a map so wide, its upper left corner at ``corner`` (down, across); what it gives a scale to."""
    (top, left), (high, wide) = corner, sides(panel)
    extent = (left, left + width, top + width * high / wide, top)
    look: dict[str, Any] = {"interpolation": "nearest", "extent": extent}
    if image is None:
        return ax.imshow(panel.values, cmap=COLOURS, norm=norm, **look)
    ((picture,),) = check_images([[image]])
    white = 255 if picture.dtype == np.uint8 else 1
    grey = picture if picture.ndim == 2 else picture[..., :3] @ LUMA
    ax.imshow(grey, cmap="gray", vmin=-0.3 * white, vmax=white, **look)
    return ax.imshow(panel.values, cmap=VEIL, norm=norm, **look)


def frame(ax: Axes, panel: xr.DataArray) -> None:
    """Axes as large as a picture, and without anything around it."""
    height, width = sides(panel)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def scale(ax: Axes, shown: Any, normalised: bool, variable: str) -> None:
    """A scale of the colours beside the Axes."""
    ax.figure.colorbar(shown, ax=ax, label=LABELS[variable][normalised], shrink=0.8)


def limits_of(panels: Sequence[xr.DataArray]) -> tuple[float, float]:
    """The lowest and the highest value of some maps."""
    values = np.concatenate([each.values.ravel() for each in panels])
    if np.isnan(values).all():
        raise EntropyLabError("maps must have an entropy of what is chosen. Got nothing but NaN.")
    return float(np.nanmin(values)), float(np.nanmax(values))


def groups(maps: Any, layer: Any, size: AnySize | None, variable: str = "entropy") -> Iterator[xr.Dataset]:
    """The groups at one size that have layers of these kinds or patterns in the image, and of them those layers.

    Layers with no map of the variable there are left out.
    """
    if variable not in LABELS:
        raise EntropyLabError(f"variable must be entropy, received or words. Got {variable!r}.")
    label = pick("size", list(check_maps(maps).children), None if size is None else size_label(size))
    patterns, count = names_of(KINDS.get(variable, ("self", "joint")) if layer is None else layer), 0
    for group in maps[label].children.values():
        ds = group.to_dataset()
        if "y" in ds.dims and variable in ds:
            known = ds[variable].notnull().any([name for name in ds[variable].dims if name != "layer"])
            named = zip(ds["layer"].values, ds["kind"].values, known.values, strict=True)
            own = [
                is_known and any(kind == each or fnmatchcase(path, each) for each in patterns)
                for path, kind, is_known in named
            ]
            count += sum(own)
            if any(own):
                yield ds.isel(layer=own)
    if not count:
        raise EntropyLabError(
            f"layer must be kinds, or patterns of layer paths, that have maps of {variable} at {label}. "
            f"Got {layer if layer is not None else patterns!r}."
        )


def check_maps(maps: Any) -> xr.DataTree:
    """Entropy maps, if they are."""
    if not isinstance(maps, xr.DataTree) or not maps.children:
        raise EntropyLabError(
            f"maps must be the xarray.DataTree of record(pipe, maps=True), with a map in it. Got {type(maps).__name__}."
        )
    return maps


def pick(name: str, known: Sequence[Any], given: Any, otherwise: Any = None) -> Any:
    """What was asked for, if it is known; by default the only one, or ``otherwise``."""
    if given is None:
        given = known[0] if len(known) == 1 else otherwise
    if given not in known:
        raise EntropyLabError(f"{name} must be one of {', '.join(map(str, known))}. Got {given!r}.")
    return given


def values_of(
    maps: xr.DataTree, name: str, layer: Any, chosen: dict[str, Any], variable: str = "entropy"
) -> dict[Any, str]:
    """All that a row or column may be of, and its label; nothing where that is averaged."""
    sizes = list(check_maps(maps).children)
    if name == "size":
        return {size: size for size in sizes}
    found = list(groups(maps, layer, chosen.get("size", sizes[0]), variable))
    if name == "layer":
        named = [ds.drop_vars(ds.data_vars)[["block", "part", "order"]] for ds in found]
        return names_by_layer(xr.concat(named, "layer").sortby("order"))
    known = dict.fromkeys(value for ds in found if name in ds.dims for value in ds[name].values.tolist())
    return {value: f"{name} {value + 1}" if isinstance(value, int) else str(value) for value in known}


def map_of(maps: xr.DataTree, layer: Any, normalised: bool, chosen: dict[str, Any], variable: str) -> xr.DataArray:
    """The mean map (y, x) of some layers, on the finest of their grids."""
    unknown = set(chosen) - set(ACROSS)
    if unknown:
        raise EntropyLabError(f"what is chosen must be of {', '.join(ACROSS)}. Got {sorted(unknown)}.")
    found = []
    for ds in groups(maps, layer, chosen.get("size"), variable):
        values = ds[variable]
        if normalised:
            values = values / np.log(ds["tokens"]) if variable == "entropy" else values
            values = values * ds["tokens"] if variable == "received" else values
        for name, otherwise in (("scaling", "original"), ("branch", "cond"), ("sample", 0), ("frame", 0)):
            if name in values.dims:
                known = values[name].values.tolist()
                first = otherwise if otherwise in known else known[0]
                values = values.sel({name: pick(name, known, chosen.get(name), first)})
        for name in ("step", "head", "word"):
            if chosen.get(name) is not None or (name == "word" and name in values.dims):
                known = values[name].values.tolist() if name in values.dims else []
                values = values.sel({name: pick(name, known, chosen.get(name))})
        found.append(values.mean([name for name in ("step", "head") if name in values.dims]))
    fine = max(found, key=lambda each: each.sizes["y"] * each.sizes["x"])
    parts = [each.sel(y=fine["y"], x=fine["x"], method="nearest").transpose("layer", "y", "x") for each in found]
    mean = np.concatenate([part.values for part in parts]).mean(0)
    return xr.DataArray(mean, {"y": fine["y"].values, "x": fine["x"].values}, ("y", "x"))
