"""Where attention looks widely: entropy maps over the picture, side by side, and through the denoising steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from .samples import GAP, check_images
from .style import axes_of

LABELS = {False: "attention entropy [nats]", True: "entropy / log N, 1 is uniform"}
ACROSS = ("size", "scaling", "branch", "sample", "step", "layer", "head", "frame")
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
    layer: str | Sequence[str] = ("self", "joint"),
    normalised: bool = False,
    limits: tuple[float, float] | None = None,
    colorbar: bool = True,
    **chosen: Any,
) -> Axes:
    """The entropy of every token of the image in its place, over the picture if there is one.

    Args:
        maps: of `entropylab.record` with ``maps=True``, or of a file that `entropylab.measure` wrote with ``maps=``.
        image: the picture that was sampled: PIL, or an array (height, width, 3); it is shown in grey under the map.
        ax: Axes to draw on; the current ones by default.
        layer: which layers, the mean of several: kinds, or patterns of layer paths ("*attn1"). Coarse grids count as
            fine ones whose tokens repeat.
        normalised: draw entropy / log N, which lies between 0 and 1 in every layer and at every size.
        limits: lowest and highest value of the colours; those of the map by default.
        colorbar: whether to draw a scale.
        chosen: one of what was kept apart: ``size``, ``scaling``, ``branch``, ``sample``, ``step``, ``head``, or
            ``frame``. By default the only one; of several the scaling "original", the branch "cond", the first sample
            and frame, and the mean over steps and heads.

    Returns:
        The Axes, in pixels of the image.

    Raises:
        EntropyLabError: no such maps, layers, or choice.

    Examples:
        >>> with entropylab.record(pipe, maps=True) as rec:
        ...     image = pipe("a red heart", num_inference_steps=2).images[0]
        >>> ax = entropylab.plot.entropy_map(rec.maps, image, layer="self")
        >>> ax.figure.savefig("map.pdf")
    """
    found = map_of(maps, layer, normalised, chosen)
    ax = axes_of(ax)
    shown = draw(ax, found, image, (0.0, 0.0), found.width, Normalize(*(limits or limits_of([found]))))
    frame(ax, found)
    if colorbar:
        scale(ax, shown, normalised)
    return ax


def entropy_maps(
    maps: xr.DataTree,
    images: Sequence[Sequence[Any]] | None = None,
    ax: Axes | None = None,
    *,
    rows: str = "size",
    columns: str = "scaling",
    layer: str | Sequence[str] = ("self", "joint"),
    normalised: bool = True,
    limits: tuple[float, float] | None = None,
    **chosen: Any,
) -> Axes:
    """Entropy maps side by side, on one scale: rules across and sizes down, or steps and layers, say.

    Args:
        maps: as for `entropy_map`.
        images: a list of rows, each a list of as many pictures as there are columns.
        ax: Axes to draw on; the current ones by default.
        rows: what the rows differ in: size, scaling, branch, sample, step, layer, head or frame.
        columns: what the columns differ in.
        layer: as for `entropy_map`.
        normalised: draw entropy / log N rather than nats.
        limits: lowest and highest value of the colours; those of all maps by default.
        chosen: as for `entropy_map`.

    Returns:
        The Axes.

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
    down, across = (values_of(maps, name, layer, chosen) for name in (rows, columns))
    if not down or not across:
        raise EntropyLabError(f"maps must have {rows if not down else columns} kept apart, not averaged.")
    pictures: list[list[Any]] = [[None] * len(across)] * len(down)
    pictures = pictures if images is None else [*check_images(images)]
    if (len(pictures), len(pictures[0])) != (len(down), len(across)):
        raise EntropyLabError(f"images must be {len(down)} rows of {len(across)} pictures, as there are maps.")
    grid = []
    for value in down:
        named = [{**chosen, rows: value, columns: other} for other in across]
        grid.append([map_of(maps, each.pop("layer", layer), normalised, each) for each in named])
    ax, norm = axes_of(ax), Normalize(*(limits or limits_of([panel for line in grid for panel in line])))
    top, middles = 0.0, []
    for line, over in zip(grid, pictures, strict=True):
        for left, (panel, picture) in enumerate(zip(line, over, strict=True)):
            shown = draw(ax, panel, picture, (top, left * (1 + GAP)), 1.0, norm)
        tall = max(panel.height / panel.width for panel in line)
        middles.append(top + tall / 2)
        top += tall + GAP
    ax.set(xlim=(0, len(across) * (1 + GAP) - GAP), ylim=(top - GAP, 0), aspect="equal")
    ax.set_yticks(middles, list(down.values()))
    is_crowded = len(across) * max(map(len, across.values())) > CROWDED
    turned: dict[str, Any] = {"rotation": 35, "ha": "left", "rotation_mode": "anchor"} if is_crowded else {}
    ax.set_xticks([0.5 + left * (1 + GAP) for left in range(len(across))], list(across.values()), **turned)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    scale(ax, shown, normalised)
    return ax


def animate(
    maps: xr.DataTree,
    image: Any = None,
    ax: Axes | None = None,
    *,
    layer: str | Sequence[str] = ("self", "joint"),
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
        layer: as for `entropy_map`.
        normalised: draw entropy / log N rather than nats.
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
    steps = values_of(maps, "step", layer, chosen)
    if not steps:
        raise EntropyLabError("maps must have step kept apart, not averaged: keep=['layer', 'step'].")
    panels = [map_of(maps, layer, normalised, {**chosen, "step": step}) for step in steps]
    pictures = list(image) if isinstance(image, list | tuple) else [image] * len(steps)
    if len(pictures) != len(steps):
        raise EntropyLabError(f"image must be a picture, or one for each of {len(steps)} steps. Got {len(pictures)}.")
    ax, limits = axes_of(ax), limits or limits_of(panels)

    def at(step: int) -> list[Any]:
        for artist in [*ax.images]:
            artist.remove()
        draw(ax, panels[step], pictures[step], (0.0, 0.0), panels[step].width, Normalize(*limits))
        ax.set_title(f"step {step + 1} of {len(steps)}")
        return [*ax.images]

    frame(ax, panels[0])
    at(0)
    scale(ax, ax.images[-1], normalised)
    return FuncAnimation(ax.figure, at, frames=len(steps), interval=interval)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Panel:
    """A map (tokens down, tokens across), and the size of its picture [pixels]."""

    values: np.ndarray
    height: float
    width: float


def draw(ax: Axes, panel: Panel, image: Any, corner: tuple[float, float], width: float, norm: Normalize) -> Any:
    """Draw a map so wide, its upper left corner at ``corner`` (down, across); what it gives a scale to."""
    top, left = corner
    extent = (left, left + width, top + width * panel.height / panel.width, top)
    look: dict[str, Any] = {"interpolation": "nearest", "extent": extent}
    if image is None:
        return ax.imshow(panel.values, cmap=COLOURS, norm=norm, **look)
    ((picture,),) = check_images([[image]])
    white = 255 if picture.dtype == np.uint8 else 1
    grey = picture if picture.ndim == 2 else picture[..., :3] @ LUMA
    ax.imshow(grey, cmap="gray", vmin=-0.3 * white, vmax=white, **look)
    return ax.imshow(panel.values, cmap=VEIL, norm=norm, **look)


def frame(ax: Axes, panel: Panel) -> None:
    """Axes as large as a picture, and without anything around it."""
    ax.set(xlim=(0, panel.width), ylim=(panel.height, 0), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def scale(ax: Axes, shown: Any, normalised: bool) -> None:
    """A scale of the colours beside the Axes."""
    ax.figure.colorbar(shown, ax=ax, label=LABELS[normalised], shrink=0.8)


def limits_of(panels: Sequence[Panel]) -> tuple[float, float]:
    """The lowest and the highest value of some maps."""
    values = np.concatenate([each.values.ravel() for each in panels])
    if np.isnan(values).all():
        raise EntropyLabError("maps must have an entropy of what is chosen. Got nothing but NaN.")
    return float(np.nanmin(values)), float(np.nanmax(values))


def groups(maps: Any, layer: Any, size: AnySize | None) -> Iterator[xr.Dataset]:
    """The groups at one size that have layers of these kinds or patterns in the image, and of them those layers."""
    label = pick("size", list(check_maps(maps).children), None if size is None else size_label(size))
    patterns, count = names_of(layer), 0
    for group in maps[label].children.values():
        ds = group.to_dataset()
        if "y" in ds.dims:
            named = zip(ds["layer"].values, ds["kind"].values, strict=True)
            own = [any(kind == each or fnmatchcase(path, each) for each in patterns) for path, kind in named]
            count += sum(own)
            if any(own):
                yield ds.isel(layer=own)
    if not count:
        raise EntropyLabError(
            f"layer must be kinds, or patterns of layer paths, that have maps at {label}. Got {layer!r}."
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


def values_of(maps: xr.DataTree, name: str, layer: Any, chosen: dict[str, Any]) -> dict[Any, str]:
    """All that a row or column may be of, and its label; nothing where that is averaged."""
    if name == "size":
        return {size: size for size in maps.children}
    sizes = list(maps.children) if isinstance(maps, xr.DataTree) else [None]
    found = list(groups(maps, layer, chosen.get("size", sizes[0] if sizes else None)))
    if name == "layer":
        labels = {
            each: np.concatenate([ds[each].values for ds in found]) for each in ("layer", "block", "part", "order")
        }
        ordered = xr.Dataset(coords={each: ("layer", values) for each, values in labels.items()}).sortby("order")
        return names_by_layer(ordered)
    known = dict.fromkeys(value for ds in found if name in ds.dims for value in ds[name].values.tolist())
    return {value: f"{name} {value + 1}" if isinstance(value, int) else str(value) for value in known}


def map_of(maps: xr.DataTree, layer: Any, normalised: bool, chosen: dict[str, Any]) -> Panel:
    """The mean map of some layers, on the finest of their grids."""
    unknown = set(chosen) - set(ACROSS)
    if unknown:
        raise EntropyLabError(f"what is chosen must be of {', '.join(ACROSS)}. Got {sorted(unknown)}.")
    found = []
    for ds in groups(maps, layer, chosen.get("size")):
        entropy = ds["entropy"] / np.log(ds["tokens"]) if normalised else ds["entropy"]
        for name, otherwise in (("scaling", "original"), ("branch", "cond"), ("sample", 0), ("frame", 0)):
            if name in entropy.dims:
                known = entropy[name].values.tolist()
                first = otherwise if otherwise in known else known[0]
                entropy = entropy.sel({name: pick(name, known, chosen.get(name), first)})
        for name in ("step", "head"):
            if chosen.get(name) is not None:
                known = entropy[name].values.tolist() if name in entropy.dims else []
                entropy = entropy.sel({name: pick(name, known, chosen[name])})
        found.append(entropy.mean([name for name in ("step", "head") if name in entropy.dims]))
    fine = max(found, key=lambda each: each.sizes["y"] * each.sizes["x"])
    y, x = fine["y"], fine["x"]
    parts = [each.sel(y=y, x=x, method="nearest").transpose("layer", "y", "x").values for each in found]
    height, width = (float(side[0] + side[-1]) for side in (y.values, x.values))
    return Panel(np.concatenate(parts).mean(0), height, width)
