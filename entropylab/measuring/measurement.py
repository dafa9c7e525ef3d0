"""``measure``: sample at every size and scaling from the same seeds and prompts, and measure attention meanwhile."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from .. import pipelines
from ..bars import bar_class
from ..errors import EntropyLabError, check_count, one_line
from ..models.prompts import default_prompts, default_settings
from ..runs.beginning import check_folder
from ..runs.prompts import Prompts, check_list, digest, read_prompts
from ..runs.worker import KEPT_APART, measure_run, source_of
from ..scaling import LayerRule, NamedRule, check_train_size, named_rule, rescaled
from ..sizes import Size, size_label
from .provenance import command
from .recorder import DEFAULT_STATISTICS, Recorder, new_recorder, watching

Call = Callable[[Any, Size, list[str], list[torch.Generator]], Any]


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
) -> xr.Dataset:
    """Sample ``pipe`` at every size and scaling, and measure the attention of every layer, head and step meanwhile.

    Args:
        pipe: a diffusers pipeline; ``entropylab.load()`` gives the embedded one.
        sizes: image sizes [pixels]; an int is a square, a pair is (height, width).
        prompts: a list of prompts, a file (txt with one a line, csv, tsv, jsonl, parquet), or the id of a data set on
            the hub; by default the embedded pipeline's own. Captions of a file that can't be used are counted.
        samples: images per size and scaling; one for each prompt by default. Prompts are used in turn; of a file with
            more captions, as many are chosen at random by ``seed``.
        steps: denoising steps; the pipeline's default if None.
        guidance_scale: guidance; the pipeline's default if None.
        seed: sample i starts from seed + i, whatever the size, scaling and batch.
        scaling: a rule, or a list of rules (see ``rescale``).
        statistics: "entropy", "lse", "mean" [nats], "sigma2", "sensitivity" [nats^2], "third", "fourth"; each averaged
            over query rows.
        rows: look at a fixed random subset of this many query rows, and add standard errors (see ``record``); None for
            all.
        layers: kinds ("self", "cross", "joint", "temporal") or patterns of layer paths ("*attn1").
        keep: dimensions to keep apart, of branch, sample, step, layer, head; the others are averaged, samples online.
            All by default; with ``out`` all but samples.
        batch_size: images sampled together.
        train_size: training size [pixels] if the pipeline's config does not say.
        call: ``call(pipe, size, prompts, generators)`` drives a pipeline whose signature is its own.
        progress: show a progress bar.
        strict: raise if an attention layer ran that could not be measured.
        out: a folder for a long run: the work is cut into units, each written there when it is finished. The same call
            goes on where an earlier one ended, and processes that make it at once share the work.
        overwrite: start the run in ``out`` afresh.
        unit_samples: samples of one size and scaling in a unit, a multiple of ``batch_size``; by default so many that
            there are at most about 100 units of each.
        column: the column of a csv, tsv, jsonl or parquet file that holds the prompts; found by its name if None.

    Returns:
        xarray.Dataset with dimensions (size, scaling, branch, sample, step, layer, head), fewer when averaged;
        variables ``entropy`` [nats, mean over query rows], ``entropy_std`` (over rows), ``sigma2`` [nats^2], ...;
        coordinates ``height``, ``width`` [pixels], ``tokens(size, layer)`` = N, ``train_tokens(layer)`` = T, ...

    Raises:
        EntropyLabError: an argument that does not fit, before any sampling.

    An exception while sampling, Ctrl-C included, carries what was measured until then as its ``dataset``; with ``out``
    it is in the folder, for ``entropylab.open``.

    Examples:
        >>> ds = entropylab.measure(pipe, sizes=[32, (32, 64)], samples=2, steps=1, progress=False)
        >>> ds.entropy.dims
        ('size', 'scaling', 'branch', 'sample', 'step', 'layer', 'head')
        >>> ds["size"].values.tolist()
        ['32x32', '32x64']
        >>> ds.tokens.isel(layer=0).values.tolist()  # N of the first layer
        [64.0, 128.0]
    """
    pipelines.layers(pipe)
    pairs = pipelines.check_sizes(pipe, sizes)
    check_seed(seed, check_count("samples", samples, 1))
    if out is not None:
        check_folder(out)
    elif overwrite or unit_samples is not None:
        raise EntropyLabError("overwrite and unit_samples are for a long run: pass out=, a folder.")
    texts = check_prompts(pipe, prompts, samples, seed, column)
    count = check_count("samples", samples, len(texts))
    check_seed(seed, count)
    if call is not None and (steps is not None or guidance_scale is not None):
        raise EntropyLabError("steps and guidance_scale are for the pipeline's own call: with call=, set them there.")
    rules = check_rules(pipe, scaling, train_size)
    plan = Plan(
        batch_size=check_count("batch_size", batch_size, 1),
        prompts=[texts[i % len(texts)] for i in range(count)],
        seed=seed,
        call=call,
        settings={} if call else call_settings(pipe, steps, guidance_scale),
    )
    keep = KEPT_APART if keep is None and out is not None else keep
    recorder = new_recorder(pipe, statistics, rows, layers, keep, train_size)
    attributes = {"seed": seed, "statistics": json.dumps(recorder.reduction.statistics)} | plan.attributes
    attributes |= source_of(pipe, texts) | {"command": command()}
    if out is not None:
        with quiet(pipe):
            return measure_run(
                plan,
                pipe,
                recorder,
                pairs,
                rules,
                train_size=train_size,
                out=out,
                overwrite=overwrite,
                unit_samples=check_count("unit_samples", unit_samples, None),
                progress=progress,
                strict=strict,
                attributes=attributes,
            )
    pixels = sum(height * width for height, width in pairs) * count * len(rules)
    with ExitStack() as stack:
        stack.enter_context(quiet(pipe))
        bar = stack.enter_context(progress_bar(pixels, progress))
        stack.enter_context(watching(recorder, strict))
        try:
            for size in pairs:
                for rule in rules:
                    bar.set_description_str(f"{size_label(size)} {rule.name}")
                    plan.sample(pipe, recorder, size, rule, train_size, bar)
        except BaseException as error:
            keep_measured(error, recorder)
            raise
    return recorder.dataset.assign_attrs(attributes)


def keep_measured(error: BaseException, recorder: Recorder) -> None:
    """Hang what was measured before ``error`` on it, so that nothing is lost that took long."""
    recorder.finish_run(whole=False)
    with suppress(EntropyLabError):
        error.dataset = recorder.dataset  # type: ignore[attr-defined]
        error.add_note("What was measured until then is the `dataset` of this exception.")


@dataclass(frozen=True)
class Plan:
    """What every size and scaling is sampled from."""

    batch_size: int
    prompts: list[str]
    seed: int
    call: Call | None
    settings: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """Steps and guidance, as far as they are given, and what tells the prompts from others."""
        names = {"steps": "num_inference_steps", "guidance_scale": "guidance_scale"}
        given = {name: self.settings[key] for name, key in names.items() if key in self.settings}
        return {**given, "prompts_digest": digest(self.prompts)}

    def sample(
        self,
        pipe: Any,
        recorder: Recorder,
        size: Size,
        rule: NamedRule,
        train_size: Any,
        bar: Any,
        first: int = 0,
        last: int | None = None,
    ) -> None:
        """Sample the prompts from ``first`` to ``last`` (not included; None for all) at one size with one rule."""
        last = len(self.prompts) if last is None else last
        for start in range(first, last, self.batch_size):
            prompts = self.prompts[start : min(start + self.batch_size, last)]
            seeds = [self.seed + start + i for i in range(len(prompts))]
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            recorder.begin_run(size=size, scaling=rule.name, prompts=prompts, seeds=seeds)
            with ExitStack() as stack:
                if not rule.is_original:
                    stack.enter_context(rescaled(pipe, rule, train_size))
                stack.enter_context(room_for(size, len(prompts)))
                if self.call is not None:
                    self.call(pipe, size, prompts, generators)
                else:
                    pipe(prompt=prompts, height=size[0], width=size[1], generator=generators, **self.settings)
            recorder.finish_run()
            bar.update(size[0] * size[1] * len(prompts))


@contextmanager
def room_for(size: Size, images: int) -> Iterator[None]:
    """Say at which size a GPU has no room to sample; measuring alone makes do with less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EntropyLabError(
            f"size {size_label(size)} has no room on the GPU with {images} images at once: lower batch_size, or the "
            f"precision. {one_line(error, 200)}"
        ) from error


def check_prompts(
    pipe: Any, prompts: Any, samples: int | None = None, seed: int = 0, column: str | None = None
) -> Prompts:
    """Prompts as a list: as given, from a file or data set, or the pipeline's own."""
    if isinstance(prompts, str | Path):
        return read_prompts(prompts, column=column, samples=samples, seed=seed)
    if column is not None and not isinstance(prompts, Prompts):
        raise EntropyLabError(f"column is for prompts from a file or data set. Got column={column!r} without one.")
    return check_list(default_prompts(pipe) if prompts is None else prompts)


def check_seed(seed: Any, count: int) -> None:
    """``seed`` and those of ``count`` samples must be ints of at most 63 bits."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63 - count:
        raise EntropyLabError(f"seed must be an int >= 0 that fits in 63 bits. Got {seed!r}.")


def check_rules(pipe: Any, scaling: Any, train_size: Any) -> list[NamedRule]:
    """``scaling`` as rules: some, different in name, and with a known training size if they need it."""
    rules = [named_rule(rule) for rule in (scaling if isinstance(scaling, list | tuple) else [scaling])]
    names = [rule.name for rule in rules]
    if not names or len(set(names)) < len(names):
        raise EntropyLabError(f"scaling must name at least one rule, each once. Got {names}.")
    if not all(rule.is_original for rule in rules):
        check_train_size(pipe, train_size)
    for rule in rules:
        if isinstance(rule.function, LayerRule):
            rule.function.check(pipe)
    return rules


def call_settings(pipe: Any, steps: Any, guidance_scale: Any) -> dict[str, Any]:
    """What ``pipe(...)`` is called with beside prompt, height, width and generators."""
    taken = pipelines.accepts(pipe)
    missing = [name for name in ("prompt", "height", "width") if name not in taken]
    if missing:
        raise EntropyLabError(
            f"{type(pipe).__name__} takes no {', '.join(missing)}: pass call=, a function "
            "(pipe, size, prompts, generators) that samples one batch."
        )
    if guidance_scale is not None and not (isinstance(guidance_scale, int | float) and math.isfinite(guidance_scale)):
        raise EntropyLabError(f"guidance_scale must be a finite number. Got {guidance_scale!r}.")
    defaults = default_settings(pipe)
    settings = {
        "num_inference_steps": check_count("steps", steps, defaults.get("num_inference_steps")),
        "guidance_scale": defaults.get("guidance_scale") if guidance_scale is None else guidance_scale,
        "output_type": "latent",
    }
    return {name: value for name, value in settings.items() if value is not None and name in taken}


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
