"""``evaluate``: the paper's evaluation, of every size under every rule and baseline, from the same seeds and prompts."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from .. import pipelines
from ..errors import EntropyLabError
from ..measurement import call_settings, check_count, check_prompts, progress_bar, quiet
from ..models.prompts import is_embedded
from ..pipelines import Size
from ..provenance import provenance
from .clip import Clip, clip_of
from .cost import Meter
from .defects import defects
from .features import Features, check_reference, features_of
from .judged import FIGURES, Judged
from .methods import Draw, Method, check_methods
from .reference import check_enough, needed
from .results import as_dataset
from .saving import save_pictures

METRICS = ("fid", "clip", "diversity", "time", "memory")


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
            size; at and above it), or a `Method` of your own, such as ``Resized(upscaler=...)``.
        prompts: a list of prompts, or a text file with one a line; for the embedded pipeline all of its captions.
        samples: pictures of every size and rule, used prompts in turn; by default what a Frechet distance needs.
        steps: denoising steps; the pipeline's default if None.
        guidance_scale: guidance; the pipeline's default if None.
        seed: picture i starts from seed + i, whatever the size, rule and batch.
        reference: the real pictures: a folder of them, pictures, or their features (pictures, dimension); None for the
            embedded ones, which are shipped at several sizes. Pictures are resized to every size, to cover it.
        metrics: some of "fid", "clip", "diversity", "defects", "time", "memory".
        features: where distances are measured: "inception", or a module from uint8 pictures (batch, 3, height, width)
            to (batch, dimension). None for the embedded features with the embedded pipeline, else Inception's.
        clip: hub id or folder of a CLIP model, or a `Clip`; None likewise.
        batch_size: pictures sampled together.
        train_size: training size [pixels] if the pipeline's config does not say.
        call: ``call(pipe, size, prompts, generators)`` gives a batch of pictures by a pipeline whose signature is its own.
        pictures: a folder to write every picture to, as SIZE/RULE/0000.png; `entropylab ratings make` reads them.
        resamples: bootstrap draws.
        progress: show a progress bar.

    Returns:
        xarray.Dataset with dimensions (size, scaling). For every figure F of the metrics (``fid``, ``clip``,
        ``pairwise_distance``, ``coverage``, ``recall``, ...) its value F, standard error ``F_error``, 95 % interval
        ``F_interval(..., bound)``, change against the first rule with the same seeds ``F_change`` and
        ``F_change_interval``, and what as many real pictures have, ``F_real(size)``. ``time`` [s], ``memory`` [MiB].
        NaN where a method has no such size. Attributes name the features and the CLIP model.

    Raises:
        EntropyLabError: an argument that does not fit, before any sampling; fewer pictures than a Frechet distance needs.

    Source: paper, Tables 1 and 2; supplement, Tables 1 and 2; limitations (the defects).
    """
    pipelines.layers(pipe)
    pairs = pipelines.check_sizes(pipe, sizes)
    methods = check_methods(pipe, scaling, train_size)
    wanted = check_metrics(metrics)
    texts = check_prompts(pipe, captions() if prompts is None and is_embedded(pipe) else prompts)
    draw = call or own_call(call_settings(pipe, steps, guidance_scale))
    if call is not None and (steps is not None or guidance_scale is not None):
        raise EntropyLabError("steps and guidance_scale are for the pipeline's own call: with call=, set them there.")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise EntropyLabError(f"seed must be an int >= 0. Got {seed!r}.")
    judge = new_judge(wanted, is_embedded(pipe), reference, features, clip)
    enough = needed(judge.features.dimension) if judge.features and "fid" in wanted else 1
    count = check_count("samples", samples, max(enough, min(len(texts), 64)))
    if judge.features is not None and "fid" in wanted:
        check_enough("samples", count, judge.features.dimension)
    if judge.features is not None and "diversity" in wanted and count < 8:
        raise EntropyLabError(f"samples must be at least 8 for metric 'diversity'. Got {count}.")
    plan = Sampling(
        [texts[i % len(texts)] for i in range(count)], seed, check_count("batch_size", batch_size, 1), draw, train_size
    )
    check_count("resamples", resamples, None)
    pixels = sum(height * width for height, width in pairs) * count * len(methods)
    judged: dict[tuple[Size, str], Judged] = {}
    meters: dict[tuple[Size, str], Meter] = {}
    with ExitStack() as stack:
        stack.enter_context(quiet(pipe))
        bar = stack.enter_context(progress_bar(pixels, progress))
        for size in pairs:
            for method in methods:
                bar.set_description_str(f"{size[0]}x{size[1]} {method.name}")
                if not method.applies(pipe, size, train_size):
                    continue
                images, meters[size, method.name] = plan.sample(pipe, size, method, bar)
                judged[size, method.name] = judge(images, plan.prompts)
                if pictures is not None:
                    save_pictures(images, plan.prompts, Path(pictures) / f"{size[0]}x{size[1]}" / method.name)
    references = {size: judge.reference(size) for size in pairs}
    ds = as_dataset(pairs, [method.name for method in methods], judged, meters, references, wanted, count, resamples)
    settings = {"steps": steps, "guidance_scale": guidance_scale, "batch_size": plan.batch_size, "seed": seed}
    given = {name: value for name, value in settings.items() if value is not None}
    return ds.assign_attrs(provenance(pipe) | judge.names() | given)


def check_metrics(metrics: Any) -> tuple[str, ...]:
    """Some metrics that are known, or an EntropyLabError."""
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if not names or any(name not in FIGURES for name in names):
        raise EntropyLabError(f"metrics must be some of {', '.join(FIGURES)}. Got {metrics!r}.")
    return names


def captions(seed: int = 0) -> list[str]:
    """All captions of the embedded pipeline's pictures, shuffled, so that the first are of all sorts."""
    from ..models import pictures

    names = list(pictures.captions().values())
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def own_call(settings: dict[str, Any]) -> Draw:
    """The pipeline's own call, with these settings."""

    def draw(pipe: Any, size: Size, prompts: list[str], generators: list[torch.Generator]) -> Any:
        given = settings | {"output_type": "np"}
        return pipe(prompt=prompts, height=size[0], width=size[1], generator=generators, **given).images

    return draw


@dataclass(frozen=True)
class Sampling:
    """What every size and method is sampled from."""

    prompts: list[str]
    seed: int
    batch_size: int
    draw: Draw
    train_size: Any

    def sample(self, pipe: Any, size: Size, method: Method, bar: tqdm) -> tuple[Tensor, Meter]:
        """All pictures of one size by one method (pictures, 3, height, width) of uint8, and what they cost."""
        images, meter = [], Meter(device_of(pipe))
        for start in range(0, len(self.prompts), self.batch_size):
            prompts = self.prompts[start : start + self.batch_size]
            seeds = range(self.seed + start, self.seed + start + len(prompts))
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            with meter.batch(len(prompts)):
                images.append(method.sample(pipe, size, prompts, generators, self.draw))
            bar.update(size[0] * size[1] * len(prompts))
        found = torch.cat(images)
        if tuple(found.shape[-2:]) != size or len(found) != len(self.prompts):
            raise EntropyLabError(
                f"call must give {len(self.prompts)} pictures of {size[0]}x{size[1]} pixels. Got {tuple(found.shape)}."
            )
        return found, meter


def device_of(pipe: Any) -> torch.device:
    """Where the denoiser is."""
    root = next(iter(pipelines.denoisers(pipe).values()))
    return next(root.parameters()).device


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
        clip = self.clip
        return Judged(
            None if self.features is None else self.features(images),
            clip.scores(images, prompts) if clip is not None and "clip" in self.metrics else None,
            defects(images, lambda found: clip.scores(found, prompts)) if clip and "defects" in self.metrics else None,
        )

    def reference(self, size: Size) -> Any:
        """The real pictures' features, if any are needed."""
        return None if self.features is None else self.features.reference(self.given, size)

    def names(self) -> dict[str, Any]:
        """What tables must say: the models, and whether distances may be compared with published ones."""
        found: dict[str, Any] = {}
        if self.features is not None:
            found["features"] = self.features.name
            found["comparable_with_published_fid"] = int(self.features.published)
        return found | ({"clip_model": self.clip.name} if self.clip is not None else {})


def new_judge(metrics: tuple[str, ...], embedded: bool, reference: Any, features: Any, clip: Any) -> Judge:
    """The models that the metrics need, read before any sampling."""
    distances = {"fid", "diversity"} & set(metrics)
    agreements = {"clip", "defects"} & set(metrics)
    found = features_of(features, embedded) if distances else None
    if found is not None:
        check_reference(reference, found, embedded)
    return Judge(metrics, reference, found, clip_of(clip, embedded) if agreements else None)
