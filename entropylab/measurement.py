"""``measure``: sample at every size and scaling from the same seeds and prompts, and measure attention meanwhile."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from . import pipelines
from .bars import progress_bar, quiet
from .errors import EntropyLabError, check_count
from .files import as_path, check_writable
from .measuring.checks import call_settings, check_prompts, check_rules, check_seed
from .measuring.live import OnStep
from .measuring.plan import Call, Plan
from .measuring.provenance import command
from .measuring.recorder import Recorder
from .measuring.recording import DEFAULT_STATISTICS, new_recorder, watching
from .netcdf import save
from .pipelines.words import check_spoken
from .prompts import read_prompts
from .runs.engine import check_engine, pool_on
from .runs.folder import MOST_SAMPLES, check_folder
from .runs.worker import KEPT_APART, Job, Worker, measure_run, source_of
from .sizes import size_label


def measure(
    pipe: Any,
    sizes: Sequence[Any],
    *,
    prompts: Sequence[str] | str | Path | None = None,
    samples: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    scaling: Any = "original",
    statistics: Sequence[str] = DEFAULT_STATISTICS,
    rows: int | None = None,
    layers: str | Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    batch_size: int = 4,
    train_size: Any = None,
    call: Call | None = None,
    progress: bool = True,
    strict: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    unit_samples: int | None = None,
    column: str | None = None,
    engine: str | None = None,
    address: str | None = None,
    resources: Mapping[str, float] | None = None,
    maps: str | Path | None = None,
    on_step: OnStep | None = None,
    received: bool = False,
    words: str | Sequence[str] | None = None,
) -> xr.Dataset:
    """Sample ``pipe`` at every size and scaling, and measure the attention of every layer, head and step meanwhile.

    Args:
        pipe: a diffusers pipeline; ``entropylab.load()`` gives the embedded one. With ``engine`` what loads it.
        sizes: image sizes [pixels]; an int is a square, a pair is (height, width).
        prompts: a list of prompts, a file (txt with one a line, csv, tsv, jsonl, parquet), or the id of a data set on
            the hub; by default the embedded pipeline's own. Captions of a file that can't be used are counted.
        samples: images per size and scaling; one for each prompt by default. Prompts are used in turn; of a file with
            more captions, as many are chosen at random by ``seed``.
        steps: denoising steps; the pipeline's own default if None.
        guidance_scale: guidance; the pipeline's own default if None.
        seed: sample i starts from seed + i, whatever the size, scaling and batch.
        scaling: a rule, or a list of rules (see ``rescale``).
        statistics: "entropy", "lse", "mean" [nats], "sigma2", "sensitivity" [nats^2], "third" [nats^3], "fourth"
            [nats^4], "gaussian", "rarefied" [nats], "slope" (see ``record``); each averaged over query rows.
        rows: look at a fixed random subset of this many query rows, and add standard errors (see ``record``); None for
            all.
        layers: kinds ("self", "cross", "joint", "temporal") or patterns of layer paths ("*attn1").
        keep: dimensions to keep apart, of branch, sample, step, layer, head; the others are averaged, samples online.
            All by default; with ``out`` all but samples.
        batch_size: images sampled together.
        train_size: training size [pixels], an int or (height, width), if the pipeline's config does not say.
        call: ``call(pipe, size, prompts, generators)`` drives a pipeline whose signature is its own.
        progress: show a progress bar.
        strict: raise if an attention layer ran that could not be measured.
        out: a folder for a long run: the work is cut into units, each written there when it is finished. The same call
            goes on where an earlier one ended, and processes that make it at once share the work.
        overwrite: start the run in ``out`` afresh, or replace the file ``maps``.
        unit_samples: samples of one size and scaling in a unit, a multiple of ``batch_size``; by default so many that
            there are at most about 100 units of each.
        column: the column of a csv, tsv, jsonl or parquet file that holds the prompts; found by its name if None.
        engine: "ray" to measure ``out`` on a Ray cluster (``pip install entropylab[ray]``): its workers load the
            pipeline themselves, so ``pipe`` is a hub id, a folder they all see, or a function without arguments that
            loads it, such as ``entropylab.load``. Workers and nodes may join and be lost meanwhile.
        address: of the cluster, "auto" or "HOST:6379"; None for one that is found as ``ray.init`` finds it, or is
            started on this machine.
        resources: what a worker takes of the cluster, as ``{"num_gpus": 0.5}`` or ``{"num_cpus": 4}``; one GPU if the
            cluster has any, else one CPU.
        maps: a file for entropy maps, "maps.nc" say: the entropy of every query row in its place in the picture, which
            ``entropylab.open`` reads as an xarray.DataTree (see ``record``). Not for a long run.
        on_step: ``on_step(dataset)`` is called with what every step gave (see ``record``); not with ``engine``.
        received: add maps of received attention, the weight that each key gets (see ``record``).
        words: add maps of the weight on these words; each must be in one of the prompts (see ``record``).

    Returns:
        xarray.Dataset with dimensions (size, scaling, branch, sample, step, layer, head), fewer when averaged;
        variables ``entropy`` [nats, mean over query rows], ``entropy_std`` (over rows), ``sigma2`` [nats^2], ...;
        coordinates ``height``, ``width`` [pixels], ``tokens(size, layer)`` = N, ``train_tokens(layer)`` = T, ...

    Raises:
        EntropyLabError: an argument that does not fit, before any sampling; with ``strict``, a layer that could not be
            measured, after it.

    An exception while sampling, Ctrl-C included, carries what was measured until then as its ``dataset`` (and its
    ``maps``); with ``out`` it is in the folder, for ``entropylab.open``.

    Examples:
        >>> ds = entropylab.measure(pipe, sizes=[32, (32, 64)], samples=2, steps=1, progress=False)
        >>> ds.entropy.dims
        ('size', 'scaling', 'branch', 'sample', 'step', 'layer', 'head')
        >>> ds["size"].values.tolist()
        ['32x32', '32x64']
        >>> ds.tokens.isel(layer=0).values.tolist()  # N of the first layer
        [64.0, 128.0]
    """
    if out is None and ((overwrite and maps is None) or unit_samples is not None or engine is not None):
        raise EntropyLabError("overwrite, unit_samples and engine are for a long run: pass out=, a folder.")
    if isinstance(maps, bool) or (maps is not None and out is not None):
        raise EntropyLabError(f"maps must be the name of a file, and is not for a long run with out=. Got {maps!r}.")
    if maps is None and (received or words is not None):
        raise EntropyLabError("received and words are of maps: pass maps=, the name of a file.")
    target = None if maps is None else check_writable(as_path(maps, "maps"), overwrite)
    unit_samples = check_count("unit_samples", unit_samples, None)
    cluster = check_engine(engine, address, resources)
    if cluster:
        if on_step is not None:
            raise EntropyLabError("on_step is called where the pipeline samples: leave it out with engine=.")
        check_folder(out)
        if isinstance(prompts, str | Path):
            prompts = read_prompts(prompts, column=column, samples=samples, seed=seed)
    request = Request(
        sizes,
        prompts,
        samples,
        steps,
        guidance_scale,
        seed,
        scaling,
        statistics,
        rows,
        layers,
        keep,
        batch_size,
        train_size,
        call,
        strict,
        column,
    )
    if cluster:
        with pool_on(address, resources, pipe, request, unit_samples, progress) as pool:
            configuration, attributes, texts = pool.known
            known = configuration, {**attributes, "command": command()}, texts
            return measure_run(pool, known, out, overwrite, unit_samples, progress)
    job = request.job(pipe, out, maps=target is not None, received=received, words=words, on_step=on_step)
    if out is not None:
        with quiet(pipe):
            return measure_run(Worker(job), job.known(unit_samples), out, overwrite, unit_samples, progress)
    plan, recorder = job.plan, job.recorder
    pixels = sum(height * width for height, width in job.sizes) * len(plan.prompts) * len(job.rules)
    with ExitStack() as stack:
        stack.enter_context(quiet(pipe))
        bar = stack.enter_context(progress_bar(pixels, progress))
        stack.enter_context(watching(recorder, strict))
        try:
            for size in job.sizes:
                for rule in job.rules:
                    bar.set_description_str(f"{size_label(size)} {rule.name}")
                    plan.sample(pipe, recorder, size, rule, train_size, bar)
        except BaseException as error:
            keep_measured(error, recorder)
            raise
    ds = recorder.dataset.assign_attrs(job.attributes)
    if target is not None:
        tree = recorder.maps
        tree.attrs |= job.attributes
        try:
            save(tree, target, overwrite)
        except EntropyLabError as error:
            keep_measured(error, recorder)
            raise
    return ds


@dataclass(frozen=True)
class Request:
    """What ``measure`` was asked for, under its names there, as it can be sent to another machine."""

    sizes: Any
    prompts: Any
    samples: int | None
    steps: int | None
    guidance_scale: float | None
    seed: int
    scaling: Any
    statistics: Sequence[str]
    rows: int | None
    layers: Any
    keep: Any
    batch_size: int
    train_size: Any
    call: Call | None
    strict: bool
    column: str | None

    def job(self, pipe: Any, out: Any = None, long: bool = False, **kept: Any) -> Job:
        """The same with a pipeline, once everything is found to fit; ``long`` if its folder ``out`` is elsewhere.

        ``kept`` is what maps are kept, and who is told of steps, as of ``new_recorder``.
        """
        pipelines.layers(pipe)
        pairs = pipelines.check_sizes(pipe, self.sizes)
        check_seed(self.seed, check_count("samples", self.samples, 1))
        if self.samples is not None and self.samples > MOST_SAMPLES:
            raise EntropyLabError(f"samples must be at most {MOST_SAMPLES}. Got {self.samples}.")
        if out is not None:
            check_folder(out)
        texts = check_prompts(pipe, self.prompts, self.samples, self.seed, self.column)
        count = check_count("samples", self.samples, len(texts))
        check_seed(self.seed, count)
        if self.call is not None and (self.steps is not None or self.guidance_scale is not None):
            raise EntropyLabError(
                "steps and guidance_scale are for the pipeline's own call: with call=, set them there."
            )
        rules = check_rules(pipe, self.scaling, self.train_size)
        plan = Plan(
            batch_size=check_count("batch_size", self.batch_size, 1),
            prompts=[texts[i % len(texts)] for i in range(count)],
            seed=self.seed,
            call=self.call,
            settings={} if self.call else call_settings(pipe, self.steps, self.guidance_scale),
        )
        keep = KEPT_APART if self.keep is None and (long or out is not None) else self.keep
        recorder = new_recorder(pipe, self.statistics, self.rows, self.layers, keep, self.train_size, **kept)
        if recorder.words is not None:
            check_spoken(recorder.words.words, plan.prompts)
        attributes = {"seed": self.seed, "statistics": json.dumps(recorder.reduction.statistics)} | plan.attributes
        attributes |= source_of(pipe, texts) | ({"command": line} if (line := command()) else {})
        return Job(pipe, plan, recorder, pairs, rules, self.train_size, self.strict, attributes)


def keep_measured(error: BaseException, recorder: Recorder) -> None:
    """Hang what was measured before ``error`` on it, so that nothing is lost that took long."""
    recorder.finish_run(whole=False)
    with suppress(EntropyLabError):
        error.dataset = recorder.dataset  # type: ignore[attr-defined]
        if recorder.kept_maps is not None:
            error.maps = recorder.maps  # type: ignore[attr-defined]
        error.add_note("What was measured until then is the `dataset` of this exception.")
