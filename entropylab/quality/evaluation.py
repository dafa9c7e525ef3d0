"""``evaluate``: every size under every rule and baseline, from the same seeds and prompts, judged."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import pipelines
from ..bars import progress_bar, quiet
from ..errors import EntropyLabError, check_count, names_of
from ..files import as_path, make_folder
from ..measuring.checks import call_settings, check_prompts, check_seed
from ..measuring.provenance import provenance
from ..models.prompts import captions as captions_by_name
from ..models.prompts import is_embedded
from ..runs.place import by_environment
from ..sizes import Size, size_label
from .clip import Clip, clip_of
from .cost import Meter, how
from .defects import defects
from .distances import NEIGHBOURS, check_enough, needed
from .features import Features, features_of
from .methods import Draw, Method, check_methods
from .results import FIGURES, Judged, empty, fill
from .saving import COSTS, Cost, Kept, fill_together

METRICS = ("fid", "clip", "diversity", "time", "memory")

Cell = tuple[Size, str]
"""A size, and a method's name."""

TOGETHER = 32
"""Pictures that one process takes in hand at once, about."""

MOST = 64
"""Pictures of every size and rule, unless told or a Frechet distance needs more."""


def evaluate(
    pipe: Any,
    sizes: Sequence[Any],
    scaling: Any = ("original", "sqrt_log"),
    *,
    prompts: Sequence[str] | str | Path | None = None,
    samples: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    reference: Any = None,
    metrics: Sequence[str] = METRICS,
    features: Any = None,
    clip: Any = None,
    batch_size: int = 4,
    train_size: Any = None,
    call: Draw | None = None,
    pictures: str | Path | None = None,
    resamples: int = 300,
    progress: bool = True,
) -> xr.Dataset:
    """Judge the pictures of ``pipe`` at every size, under scaling rules and baselines.

    Args:
        pipe: a diffusers pipeline; ``entropylab.load()`` gives the embedded one.
        sizes: image sizes [pixels]; an int is a square, a pair is (height, width).
        scaling: rules as for ``rescale`` ("original", "sqrt_log", a number, ``calibration.calibrated``, ...), and
            baselines: "resize" (sample at the training size and resize), "multidiffusion" (windows of the training
            size; at and above it), or a `Method` of your own, such as
            ``entropylab.quality.methods.Resized(upscaler=...)``.
        prompts: a list of prompts, or a text file with one a line; for the embedded pipeline all of its captions.
        samples: pictures of every size and rule, used prompts in turn; by default what a Frechet distance needs.
        steps: denoising steps; the pipeline's default if None.
        guidance_scale: guidance; the pipeline's default if None.
        seed: picture i starts from seed + i, whatever the size, rule and batch.
        reference: the real pictures: a folder of them, pictures, or their features (pictures, dimension); None for the
            embedded ones, which are shipped at several sizes. Pictures are resized to every size, to cover it; but for
            Inception's features they are looked at as they are, as the paper does.
        metrics: some of "fid", "clip", "diversity", "defects", "time", "memory".
        features: where distances are measured: "inception", or a module from uint8 pictures (batch, 3, height, width)
            to (batch, dimension). None for the embedded features with the embedded pipeline, else Inception's.
        clip: hub id or folder of a CLIP model, or an ``entropylab.quality.clip.Clip``; None likewise.
        batch_size: pictures sampled together.
        train_size: training size [pixels] if the pipeline's config does not say.
        call: ``call(pipe, size, prompts, generators)`` gives pictures by a pipeline whose signature is its own.
        pictures: a folder to write every picture to, as SIZE/RULE/0000.png; `entropylab ratings make` reads them. What
            an evaluation that was stopped has finished is read there instead of sampled again, and processes that make
            the same call at once share the sampling, as with `measure(..., out=...)`; each judges all pictures.
        resamples: bootstrap draws.
        progress: show a progress bar.

    Returns:
        xarray.Dataset with dimensions (size, scaling). For every figure F of the metrics (``fid``, ``clip_score``,
        ``pairwise_distance``, ``coverage``, ``recall``, ...) its value F, standard error ``F_error``, 95 % interval
        ``F_interval(..., bound)``, change against the first rule with the same seeds ``F_change`` and
        ``F_change_interval``, and what as many real pictures have, ``F_real(size)``. ``time`` [s], ``memory`` and
        ``memory_added`` [MiB].
        NaN where a method has no such size. Attributes name the features and the CLIP model.

    Raises:
        EntropyLabError: an argument that does not fit, too few pictures for a Frechet distance; before any sampling. A
            folder with other pictures in the place of these.

    Source: paper, Tables 1 and 2; supplement, Tables 1 and 2; limitations (the defects).

    Examples:
        >>> judged = entropylab.evaluate(
        ...     pipe, [32], samples=4, steps=1, metrics=("clip", "time"), resamples=10, progress=False
        ... )
        >>> judged.clip_score.sizes
        Frozen({'size': 1, 'scaling': 2})
    """
    pipelines.layers(pipe)
    pairs = pipelines.check_sizes(pipe, sizes)
    methods = check_methods(pipe, scaling, train_size)
    device, embedded = device_of(pipe), is_embedded(pipe)
    judge = new_judge(metrics, embedded, reference, features, clip, device)
    texts = check_prompts(pipe, captions() if prompts is None and embedded else prompts)
    count = check_count("samples", samples, max(judge.least, min(len(texts), MOST)))
    judge.check_count(count)
    check_seed(seed, count)
    check_count("resamples", resamples, None)
    batch_size = check_count("batch_size", batch_size, 1)
    if pictures is not None and not os.path.isdir(pictures := as_path(pictures, "pictures", "folder")):
        make_folder(pictures, "pictures")
    if call is not None and (steps is not None or guidance_scale is not None):
        raise EntropyLabError("steps and guidance_scale are for the pipeline's own call: with call=, set them there.")
    settings = {} if call is not None else call_settings(pipe, steps, guidance_scale)
    chosen = [texts[i % len(texts)] for i in range(count)]
    sampling = Sampling(pipe, chosen, seed, batch_size, call or own_call(settings), train_size)
    cells = {(size, one.name): one for size in pairs for one in methods if one.applies(pipe, size, train_size)}
    meters = {cell: Meter(device, judge.size_on(device)) for cell in cells}
    pixels = count * sum(size[0] * size[1] for size, _ in cells)
    ds = empty(pairs, [method.name for method in methods], judge.metrics, count)
    with quiet(pipe):
        batches = {cell: sampling.batches(cell[0], method, meters[cell]) for cell, method in cells.items()}
        if pictures is not None:
            said = settings if call is None else {"call": getattr(call, "__qualname__", type(call).__name__)}
            kept = sampling.keep(Path(pictures), cells, meters, said, progress and by_environment().is_main)
            batches = {cell: one.batches(batch_size) for cell, one in kept.items()}
            meters = {cell: Meter(device, **one.cost) for cell, one in kept.items()}
        with progress_bar(pixels, progress) as bar:
            for size in pairs:
                judged = {}
                for cell in (cell for cell in cells if cell[0] == size):
                    bar.set_description_str(f"{size_label(size)} {cell[1]}")
                    parts = []
                    for start, images in batches[cell]:
                        parts.append(judge(images, chosen[start : start + len(images)]))
                        bar.update(size[0] * size[1] * len(images))
                    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                    judged[cell[1]] = joined, meters[cell]
                fill(ds, size, judged, judge.reference(size), resamples)
    loads = [load for meter in meters.values() for load in meter.loads]
    called = {"steps": settings.get("num_inference_steps"), "guidance_scale": settings.get("guidance_scale")}
    given = {name: value for name, value in called.items() if value is not None}
    about = {"batch_size": batch_size, "seed": seed, "resamples": resamples, "cost": how(device, loads)}
    return ds.assign_attrs(provenance(pipe) | judge.names() | given | about)


def captions(seed: int = 0) -> list[str]:
    """All captions of the embedded pipeline's pictures, shuffled, so that the first are of all sorts."""
    names = list(captions_by_name().values())
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def device_of(pipe: Any) -> torch.device:
    """Where the denoiser is."""
    root = next(iter(pipelines.denoisers(pipe).values()))
    return next(root.parameters()).device


def own_call(settings: dict[str, Any]) -> Draw:
    """The pipeline's own call, with these settings."""

    def draw(pipe: Any, size: Size, prompts: list[str], generators: list[torch.Generator]) -> Any:
        given = settings | {"output_type": "np"}
        return pipe(prompt=prompts, height=size[0], width=size[1], generator=generators, **given).images

    return draw


@dataclass(frozen=True)
class Sampling:
    """What every size and method is sampled from.

    Attributes:
        pipe: the pipeline.
        prompts: one a picture.
        seed: of the first picture; the next has the next.
        batch_size: pictures sampled together.
        draw: samples a batch.
        train_size: as the caller gave it.
    """

    pipe: Any
    prompts: list[str]
    seed: int
    batch_size: int
    draw: Draw
    train_size: Any

    def batches(
        self, size: Size, method: Method, meter: Meter, part: range | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Every batch of one size by one method, or of a ``part`` of its pictures: the number of its first picture, and
        its pictures (batch, 3, height, width) of uint8; ``meter`` is told what it costs.
        """
        for start in (part or range(len(self.prompts)))[:: self.batch_size]:
            prompts = self.prompts[start : start + self.batch_size]
            generators = [torch.Generator("cpu").manual_seed(self.seed + start + i) for i in range(len(prompts))]
            with meter.batch(len(prompts)):
                images = method.sample(self.pipe, size, prompts, generators, self.draw)
            if tuple(images.shape[-2:]) != size or len(images) != len(prompts):
                raise EntropyLabError(
                    f"call must give {len(prompts)} pictures of {size_label(size)} pixels. Got {tuple(images.shape)}."
                )
            yield start, images

    def keep(
        self, folder: Path, cells: dict[Cell, Method], meters: dict[Cell, Meter], said: dict[str, Any], progress: bool
    ) -> dict[Cell, Kept]:
        """Every picture in a folder, beside other processes at it; ``said`` is how the pipeline is called."""
        each = self.batch_size * max(1, TOGETHER // self.batch_size)
        kept = {
            (size, name): Kept(folder / size_label(size) / name, self.made(size, method, said), self.prompts, each)
            for (size, name), method in cells.items()
        }
        with progress_bar(sum(size[0] * size[1] for size, _ in cells) * len(self.prompts), progress) as bar:

            def draw(cell: Cell, part: range) -> tuple[Tensor, Cost]:
                meter = Meter(meters[cell].device, meters[cell].aside)
                found = []
                for _, images in self.batches(cell[0], cells[cell], meter, part):
                    found.append(images)
                    bar.update(cell[0][0] * cell[0][1] * len(images))
                return torch.cat(found), {name: getattr(meter, name) for name in COSTS}

            fill_together(folder, kept, draw)
        return kept

    def made(self, size: Size, method: Method, settings: dict[str, Any]) -> dict[str, Any]:
        """What decides the pictures of one size and method, as JSON can hold it."""
        from ..checkpoints import digest_of_weights
        from ..prompts import digest
        from ..runs.configuration import FROM_PIPE

        source = provenance(self.pipe)
        found = {name: source[name] for name in FROM_PIPE if name in source} | {
            "weights": digest_of_weights(self.pipe),
            "size": list(size),
            "method": method.description,
            "train_size": self.train_size,
            "samples": len(self.prompts),
            "prompts": digest(self.prompts),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "settings": settings,
        }
        return dict(json.loads(json.dumps(found, default=str)))


@dataclass(frozen=True)
class Judge:
    """The models that pictures are judged by.

    Attributes:
        metrics: what is wanted.
        given: the reference, as the caller gave it.
        features: for distances, if any are wanted.
        clip: for agreement, if it is wanted.
    """

    metrics: tuple[str, ...]
    given: Any
    features: Features | None
    clip: Clip | None

    def __call__(self, images: Tensor, prompts: list[str]) -> Judged:
        """Features, agreement and defects of pictures (pictures, 3, height, width) of uint8."""
        found = {} if self.features is None else {"features": self.features(images)}
        if self.clip is not None:
            scores = partial(self.clip.scores, prompts=prompts)
            found |= {"clip_score": scores(images)} if "clip" in self.metrics else {}
            found |= defects(images, scores) if "defects" in self.metrics else {}
        return found

    def reference(self, size: Size) -> Any:
        """The real pictures' features, if any are needed."""
        return None if self.features is None else self.features.reference(self.given, size)

    def check_count(self, count: int) -> None:
        """Raise an EntropyLabError if so many pictures are too few for what is wanted."""
        if self.features is not None and "fid" in self.metrics:
            check_enough("samples", count, self.features.dimension)
        if "diversity" in self.metrics and count <= NEIGHBOURS + 2:
            raise EntropyLabError(f"samples must be at least {NEIGHBOURS + 3} for metric 'diversity'. Got {count}.")

    @property
    def least(self) -> int:
        """How many pictures a Frechet distance needs, if one is wanted; else 1."""
        return needed(self.features.dimension) if self.features is not None and "fid" in self.metrics else 1

    def size_on(self, device: torch.device) -> int:
        """Bytes of these models on a device."""
        modules = [part for part in (self.features and self.features.module, self.clip and self.clip.model) if part]
        tensors = {id(one): one for part in modules for one in (*part.parameters(), *part.buffers())}
        return sum(one.numel() * one.element_size() for one in tensors.values() if one.device == device)

    def names(self) -> dict[str, Any]:
        """What tables must say: the models, and whether distances may be compared with published ones."""
        found: dict[str, Any] = {} if self.clip is None else {"clip_model": self.clip.name}
        if self.features is not None:
            found |= {"features": self.features.name, "comparable_with_published_fid": int(self.features.published)}
        return found


def check_metrics(metrics: Any) -> tuple[str, ...]:
    """Names of metrics, if all are known."""
    names = names_of(metrics)
    if not names or any(name not in FIGURES for name in names):
        raise EntropyLabError(f"metrics must be some of {', '.join(FIGURES)}. Got {metrics!r}.")
    return names


def new_judge(metrics: Any, embedded: bool, reference: Any, features: Any, clip: Any, device: torch.device) -> Judge:
    """The models that the metrics need, read before any sampling; those of the hub are put on ``device``."""
    names = check_metrics(metrics)
    found = features_of(features, embedded, device) if {"fid", "diversity"} & set(names) else None
    if found is not None:
        found.check_reference(reference, embedded)
    return Judge(names, reference, found, clip_of(clip, embedded, device) if {"clip", "defects"} & set(names) else None)
