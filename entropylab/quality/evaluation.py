"""``evaluate``: every size under every rule and baseline, from the same seeds and prompts, judged."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .. import pipelines
from ..bars import progress_bar, quiet
from ..errors import EntropyLabError, check_count, names_of
from ..files import as_path, make_folder
from ..measuring.checks import call_settings, check_prompts, check_seed
from ..measuring.provenance import provenance
from ..models.prompts import captions as captions_by_name
from ..models.prompts import is_embedded
from ..sizes import Size, size_label
from .cost import Meter, how
from .judge import Judge, new_judge
from .judged import FIGURES, Judged, joined
from .methods import Draw, Method, check_methods
from .results import empty, fill
from .sampling import Sampling, device_of, own_call
from .saving import Kept, save_pictures

METRICS = ("fid", "clip", "diversity", "time", "memory")

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
            an evaluation that was stopped has finished of sizes and rules is read there instead of sampled again.
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
    judge = new_judge(check_metrics(metrics), is_embedded(pipe), reference, features, clip, device_of(pipe))
    texts = check_prompts(pipe, captions() if prompts is None and is_embedded(pipe) else prompts)
    count = check_count("samples", samples, max(judge.least, min(len(texts), MOST)))
    judge.check_count(count)
    check_seed(seed, count)
    check_count("resamples", resamples, None)
    pictures = None if pictures is None else as_path(pictures, "pictures", "folder")
    if pictures is not None and not os.path.isdir(pictures):
        make_folder(pictures, "pictures")
    settings = {} if call is not None else call_settings(pipe, steps, guidance_scale)
    plan = Sampling(
        prompts=[texts[i % len(texts)] for i in range(count)],
        seed=seed,
        batch_size=check_count("batch_size", batch_size, 1),
        draw=drawing(call, settings, steps, guidance_scale),
        settings=settings | ({} if call is None else {"call": getattr(call, "__qualname__", type(call).__name__)}),
    )
    ds = empty(pairs, [method.name for method in methods], judge.metrics, count)
    loads: list[float] = []
    with quiet(pipe), progress_bar(work(pairs, count, len(methods)), progress) as bar:
        for size in pairs:
            cells = {
                method.name: cell(pipe, size, method, plan, judge, train_size, pictures, bar)
                for method in methods
                if method.applies(pipe, size, train_size) or passed(bar, size, count)
            }
            fill(ds, size, cells, judge.reference(size), resamples)
            loads += [load for _, meter in cells.values() for load in meter.loads]
    said = {"steps": settings.get("num_inference_steps"), "guidance_scale": settings.get("guidance_scale")}
    given = {name: value for name, value in said.items() if value is not None}
    about = {"batch_size": plan.batch_size, "seed": seed, "resamples": resamples, "cost": how(device_of(pipe), loads)}
    return ds.assign_attrs(provenance(pipe) | judge.names() | given | about)


def cell(
    pipe: Any,
    size: Size,
    method: Method,
    plan: Sampling,
    judge: Judge,
    train_size: Any,
    pictures: Path | None,
    bar: Any,
) -> tuple[Judged, Meter]:
    """What is kept of the pictures of one size and method, and what they cost; sampled, or read where they are kept."""
    bar.set_description_str(f"{size_label(size)} {method.name}")
    meter, kept = Meter(device_of(pipe), judge.size_on(device_of(pipe))), None
    if pictures is not None:
        kept = Kept(pictures / size_label(size) / method.name, made(pipe, size, method, plan, train_size))
    done = kept is not None and kept.complete
    found = kept.batches(plan.starts, len(plan.prompts)) if kept and done else plan.batches(pipe, size, method, meter)
    parts = []
    for start, images in found:
        parts.append(judge(images, plan.of(start)))
        if kept is not None and not done:
            save_pictures(images, plan.of(start), kept.folder, start)
        bar.update(size[0] * size[1] * len(images))
    if kept is not None and not done:
        kept.finish(meter)
    return joined(parts), kept.meter(meter.device) if kept and done else meter


def made(pipe: Any, size: Size, method: Method, plan: Sampling, train_size: Any) -> dict[str, Any]:
    """What decides the pictures of one size and method."""
    from ..checkpoints import digest_of_weights
    from ..prompts import digest
    from ..runs.configuration import FROM_PIPE

    source = provenance(pipe)
    found = {name: source[name] for name in FROM_PIPE if name in source} | {
        "weights": digest_of_weights(pipe),
        "size": list(size),
        "method": method.description,
        "train_size": train_size,
        "samples": len(plan.prompts),
        "prompts": digest(plan.prompts),
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "settings": plan.settings,
    }
    return dict(json.loads(json.dumps(found, default=str)))


def work(sizes: Sequence[Size], count: int, methods: int) -> int:
    """Pixels in all."""
    return sum(height * width for height, width in sizes) * count * methods


def passed(bar: Any, size: Size, count: int) -> bool:
    """Count what a method has no pictures of as done; False."""
    bar.update(size[0] * size[1] * count)
    return False


def drawing(call: Draw | None, settings: dict[str, Any], steps: int | None, guidance_scale: float | None) -> Draw:
    """The caller's way to sample a batch, or the pipeline's own."""
    if call is None:
        return own_call(settings)
    if steps is not None or guidance_scale is not None:
        raise EntropyLabError("steps and guidance_scale are for the pipeline's own call: with call=, set them there.")
    return call


def check_metrics(metrics: Any) -> tuple[str, ...]:
    """Some metrics that are known, or an EntropyLabError."""
    names = names_of(metrics)
    if not names or any(name not in FIGURES for name in names):
        raise EntropyLabError(f"metrics must be some of {', '.join(FIGURES)}. Got {metrics!r}.")
    return names


def captions(seed: int = 0) -> list[str]:
    """All captions of the embedded pipeline's pictures, shuffled, so that the first are of all sorts."""
    names = list(captions_by_name().values())
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
