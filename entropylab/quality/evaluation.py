"""``evaluate``: every size under every rule and baseline, from the same seeds and prompts, judged."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import pipelines
from ..bars import progress_bar, quiet
from ..checkpoints import digest_of_weights
from ..errors import EntropyLabError, check_count, check_int, names_of
from ..files import folder_for
from ..measuring.checks import call_settings, check_prompts, check_seed
from ..measuring.provenance import provenance
from ..models.prompts import captions as captions_by_name
from ..models.prompts import is_embedded
from ..prompts import digest, read_prompts
from ..runs.configuration import FROM_PIPE
from ..runs.engine import check_engine, pool_on
from ..runs.units import Unit
from ..runs.worker import Worker
from ..sizes import Size, size_label
from .clip import Clip, clip_of
from .cost import Meter, how
from .defects import defects
from .distances import NEIGHBOURS, check_enough, needed
from .features import Features, features_of
from .methods import Draw, Method, check_methods, name_of
from .results import FIGURES, Judged, estimates, new_draws, of_real, resampled, summarised
from .saving import COSTS, PictureRun

METRICS = ("fid", "clip", "diversity", "time", "memory")

FEATURED, SCORED = ("fid", "diversity"), ("clip", "defects")
"""Metrics of features, beside those of real pictures; and of a CLIP model."""

TOGETHER = 32
"""About so many pictures are a unit."""

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
    engine: str | None = None,
    address: str | None = None,
    resources: Mapping[str, float] | None = None,
) -> xr.Dataset:
    """Judge the pictures of ``pipe`` at every size, under scaling rules and baselines.

    Args:
        pipe: a diffusers pipeline; ``entropylab.load()`` gives the embedded one. With ``engine`` what loads it.
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
        pictures: a folder to write every picture to, as SIZE/RULE/0000.png; figures/ratings.py reads them. What
            an evaluation that was stopped has finished is read there instead of sampled again, and processes that make
            the same call at once share the sampling, as with `measure(..., out=...)`; each judges all pictures.
        resamples: bootstrap draws, at least two.
        progress: show a progress bar.
        engine: "ray" to sample ``pictures`` on a Ray cluster, whose workers load the pipeline themselves, so ``pipe``
            is as for `measure(..., engine=...)`. The pictures are written and judged here.
        address: of the cluster, as for ``measure``.
        resources: what a worker takes of the cluster, as for ``measure``.

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
    cluster = check_engine(engine, address, resources)
    if cluster and pictures is None:
        raise EntropyLabError("engine is for pictures that are kept: pass pictures=, a folder.")
    metrics = check_metrics(metrics)
    models = (("reference", reference, FEATURED), ("features", features, FEATURED), ("clip", clip, SCORED))
    for name, value, used in models:
        if value is not None and not set(used) & set(metrics):
            raise EntropyLabError(f"{name} is for metrics {' and '.join(used)}: leave it out. Got metrics={metrics!r}.")
    if cluster and isinstance(prompts, str | Path):
        prompts = read_prompts(prompts)
    request = Request(sizes, scaling, prompts, steps, guidance_scale, seed, batch_size, train_size, call)
    with ExitStack() as stack:
        if cluster:
            pool = stack.enter_context(pool_on(address, resources, pipe, request, None, progress))
            sampling, device = pool.known[1], torch.device("cuda" if torch.cuda.is_available() else "cpu")
        else:
            stack.enter_context(quiet(pipe))
            sampling = request.job(pipe, long=pictures is not None)
            device = sampling.device
        extractor = features_of(features, sampling.embedded, device) if set(FEATURED) & set(metrics) else None
        if extractor is not None:
            extractor.check_reference(reference, sampling.embedded)
        scorer = clip_of(clip, sampling.embedded, device) if set(SCORED) & set(metrics) else None
        judge = Judge(metrics, reference, extractor, scorer)
        texts, cells = sampling.prompts, sampling.cells
        count = check_count("samples", samples, max(judge.least, min(len(texts), MOST)))
        judge.check_count(count)
        check_seed(seed, count)
        check_int("resamples", resamples, 2)
        chosen = [texts[i % len(texts)] for i in range(count)]
        sampling = replace(sampling, prompts=chosen, aside=0 if cluster else judge.size_on(device))
        if pictures is None:
            meters = {cell: Meter(device, sampling.aside) for cell in cells}
            batches = {cell: sampling.batches(*cell, meters[cell], range(count)) for cell in cells}
        else:
            run = sampling.run(folder_for(pictures, "pictures"))
            run.share(pool if cluster else Worker(sampling), progress)
            meters = {cell: run.meter(cell, sampling.device) for cell in cells}
            batches = {cell: run.batches(cell, sampling.batch_size) for cell in cells}
        if cluster:
            stack.close()  # judging needs no workers
        draws = new_draws(sampling.sizes, [one.name for one in sampling.methods], judge.metrics, resamples)
        figures, real, looked_at = draws["figure"].values.tolist(), {}, []
        bar = stack.enter_context(progress_bar(count * sum(size[0] * size[1] for size, _ in cells), progress))
        for size in sampling.sizes:
            found = judge.reference(size)
            for cell in (cell for cell in cells if cell[0] == size):
                bar.set_description_str(f"{size_label(size)} {cell[1]}")
                parts = []
                for start, images in batches[cell]:
                    parts.append(judge(images, chosen[start : start + len(images)]))
                    bar.update(size[0] * size[1] * len(images))
                judged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                if figures:
                    estimated = estimates(judged, found, figures)
                    draws.loc[size_label(size), cell[1], list(estimated)] = resampled(estimated, count, resamples)
            real[size] = {} if found is None else of_real(found, count, figures)
            looked_at.append("" if found is None or found.size is None else size_label(found.size))
    settings = sampling.settings
    called = {"steps": settings.get("num_inference_steps"), "guidance_scale": settings.get("guidance_scale")}
    given = {name: value for name, value in called.items() if value is not None}
    about = {"batch_size": sampling.batch_size, "seed": seed, "resamples": resamples}
    ds = summarised(draws, sampling.sizes, judge.metrics, count, real, meters)
    ds = ds.assign_coords(reference_size=("size", np.array(looked_at, dtype=object)))
    return ds.assign_attrs(sampling.source | judge.names() | given | about | {"cost": how(sampling.device)})


@dataclass(frozen=True)
class Request:
    """What ``evaluate`` was asked for of a pipeline, under its names there, as it can be sent to another machine."""

    sizes: Any
    scaling: Any
    prompts: Any
    steps: int | None
    guidance_scale: float | None
    seed: int
    batch_size: int
    train_size: Any
    call: Draw | None

    def job(self, pipe: Any, long: bool) -> "Sampling":
        """What samples it, once everything is found to fit; ``long`` if its pictures are to be kept."""
        pipelines.layers(pipe)
        sizes = pipelines.check_sizes(pipe, self.sizes)
        methods = check_methods(pipe, self.scaling, self.train_size)
        embedded = is_embedded(pipe)
        texts = check_prompts(pipe, captions() if self.prompts is None and embedded else self.prompts)
        check_seed(self.seed, 1)
        if self.call is None:
            settings = call_settings(pipe, self.steps, self.guidance_scale)
            draw, named = own_call(settings), {}
        elif self.steps is None and self.guidance_scale is None:
            settings, draw = {}, self.call
            named = {"call": name_of(draw)}
        else:
            raise EntropyLabError(
                "steps and guidance_scale are for the pipeline's own call: with call=, set them there."
            )
        return Sampling(
            pipe=pipe,
            sizes=sizes,
            methods=methods,
            cells=[(size, one.name) for size in sizes for one in methods if one.applies(pipe, size, self.train_size)],
            prompts=list(texts),
            seed=self.seed,
            batch_size=check_count("batch_size", self.batch_size, 1),
            draw=draw,
            train_size=self.train_size,
            settings=settings | named,
            embedded=embedded,
            device=next(next(iter(pipelines.denoisers(pipe).values())).parameters()).device,
            source=provenance(pipe),
            weights=digest_of_weights(pipe) if long else "",
        )


def captions(seed: int = 0) -> list[str]:
    """All captions of the embedded pipeline's pictures, shuffled, so that the first are of all sorts."""
    names = list(captions_by_name().values())
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def own_call(settings: dict[str, Any]) -> Draw:
    """The pipeline's own call, with these settings."""

    def draw(pipe: Any, size: Size, prompts: list[str], generators: list[torch.Generator]) -> Any:
        given = settings | {"output_type": "np"}
        return pipe(prompt=prompts, height=size[0], width=size[1], generator=generators, **given).images

    return draw


@dataclass(frozen=True)
class Sampling:
    """What every size and method is sampled from; to long runs a job, whose units are pictures.

    ``cells`` are the sizes and names of methods of which there are pictures, ``prompts`` are used in turn, ``aside`` is
    how many bytes on the device are not the pipeline's. There is no ``pipe`` on a machine that leaves sampling to
    others, and ``weights`` is a digest only if pictures are kept.
    """

    pipe: Any
    sizes: list[Size]
    methods: list[Method]
    cells: list[tuple[Size, str]]
    prompts: list[str]
    seed: int
    batch_size: int
    draw: Draw
    train_size: Any
    settings: dict[str, Any]
    embedded: bool
    device: torch.device
    source: dict[str, str]
    weights: str
    aside: int = 0

    def batches(self, size: Size, name: str, meter: Meter, part: range) -> Iterator[tuple[int, Tensor]]:
        """Every batch of a ``part`` of the pictures of one size by one method: the number of its first picture, and
        its pictures (batch, 3, height, width) of uint8; ``meter`` is told what it costs.
        """
        method = next(one for one in self.methods if one.name == name)
        for start in part[:: self.batch_size]:
            numbers = range(start, min(start + self.batch_size, part.stop))
            prompts = [self.prompts[number % len(self.prompts)] for number in numbers]
            generators = [torch.Generator("cpu").manual_seed(self.seed + number) for number in numbers]
            with meter.batch(len(prompts)):
                images = method.sample(self.pipe, size, prompts, generators, self.draw)
            if tuple(images.shape[-2:]) != size or len(images) != len(prompts):
                raise EntropyLabError(
                    f"call must give {len(prompts)} pictures of {size_label(size)} pixels. Got {tuple(images.shape)}."
                )
            yield start, images

    def measure(self, unit: Unit, bar: Any) -> xr.Dataset:
        """A unit's pictures, and what they cost."""
        meter, began, parts = Meter(self.device, self.aside), time.monotonic(), []
        for _, images in self.batches(unit.size, unit.scaling, meter, range(unit.start, unit.stop)):
            parts.append(images)
            bar.update(unit.size[0] * unit.size[1] * len(images))
        pictures = (("picture", "channel", "height", "width"), torch.cat(parts).numpy())
        cost = {name: getattr(meter, name) for name in COSTS}
        return xr.Dataset({"images": pictures}, attrs={"cost": cost, "seconds": time.monotonic() - began})

    def known(self, _: Any) -> tuple[dict[str, Any], "Sampling"]:
        """What must be the same wherever pictures are sampled, and all that is known without the pipeline."""
        return self.identity, replace(self, pipe=None)

    def watched(self) -> AbstractContextManager[None]:
        """The context in which units are sampled."""
        return nullcontext()

    def report(self) -> None:
        """There is nothing to warn of."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the pipeline is, as far as it decides the pictures."""
        return {name: self.source[name] for name in FROM_PIPE if name in self.source} | {"weights": self.weights}

    def run(self, folder: Path) -> PictureRun:
        """The folder of all pictures."""
        methods = {one.name: one for one in self.methods}
        if odd := [name for name in methods if name == ".." or Path(name).name != name]:
            raise EntropyLabError(f"pictures: rules must have names that folders can have. Got {odd[0]!r}.")
        each = self.batch_size * max(1, TOGETHER // self.batch_size)
        made = {(size, name): self.made(size, methods[name]) for size, name in self.cells}
        return PictureRun(folder, made, self.prompts, each)

    def made(self, size: Size, method: Method) -> dict[str, Any]:
        """What decides the pictures of one size and method, as JSON can hold it."""
        found = self.identity | {
            "size": list(size),
            "method": method.description,
            "train_size": self.train_size,
            "samples": len(self.prompts),
            "prompts": digest(self.prompts),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "settings": self.settings,
        }
        return dict(json.loads(json.dumps(found, default=str)))


@dataclass(frozen=True)
class Judge:
    """The models that pictures are judged by, as far as ``metrics`` need them; ``given`` is the caller's reference."""

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
