"""``measure``: sample at every size and scaling from the same seeds and prompts, and measure attention meanwhile."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from tqdm.auto import tqdm

from . import pipelines
from .errors import EntropyLabError
from .models.prompts import default_prompts, default_settings
from .pipelines import Size
from .recorder import DEFAULT_STATISTICS, Recorder, new_recorder, watching
from .scaling import LayerRule, NamedRule, check_train_size, named_rule, rescaled

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
) -> xr.Dataset:
    """Sample ``pipe`` at every size and scaling, and measure the attention of every layer, head and step meanwhile.

    Args:
        pipe: a diffusers pipeline; ``entropylab.load()`` gives the embedded one.
        sizes: image sizes [pixels]; an int is a square, a pair is (height, width).
        prompts: a list of prompts, or a text file with one a line; by default the embedded pipeline's own.
        samples: images per size and scaling; one for each prompt by default. Prompts are used in turn.
        steps: denoising steps; the pipeline's default if None.
        guidance_scale: guidance; the pipeline's default if None.
        seed: sample i starts from seed + i, whatever the size, scaling and batch.
        scaling: a rule, or a list of rules (see ``rescale``).
        statistics: "entropy", "lse", "mean" [nats], "sigma2", "sensitivity" [nats^2], "third", "fourth"; each averaged
            over query rows.
        rows: look at a fixed random subset of this many query rows, and add standard errors (see ``record``); None for
            all.
        layers: kinds ("self", "cross", "joint", "temporal") or patterns of layer paths ("*attn1") to measure; None for all.
        keep: dimensions to keep apart, of branch, sample, step, layer, head; the others are averaged, samples online.
        batch_size: images sampled together.
        train_size: training size [pixels] if the pipeline's config does not say.
        call: ``call(pipe, size, prompts, generators)`` drives a pipeline whose signature is its own.
        progress: show a progress bar.
        strict: raise if an attention layer ran that could not be measured.

    Returns:
        xarray.Dataset with dimensions (size, scaling, branch, sample, step, layer, head), fewer when averaged;
        variables ``entropy`` [nats, mean over query rows], ``entropy_std`` (over rows), ``sigma2`` [nats^2], ...;
        coordinates ``height``, ``width`` [pixels], ``tokens(size, layer)`` = N, ``train_tokens(layer)`` = T, ...

    Raises:
        EntropyLabError: an argument that does not fit, before any sampling.

    An exception while sampling, Ctrl-C included, carries what was measured until then as its ``dataset``.
    """
    pipelines.layers(pipe)
    pairs = pipelines.check_sizes(pipe, sizes)
    texts = check_prompts(pipe, prompts)
    count = check_count("samples", samples, len(texts))
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63 - count:
        raise EntropyLabError(f"seed must be an int >= 0 that fits in 63 bits. Got {seed!r}.")
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
    recorder = new_recorder(pipe, statistics, rows, layers, keep, train_size)
    pixels = sum(height * width for height, width in pairs) * count * len(rules)
    with ExitStack() as stack:
        stack.enter_context(quiet(pipe))
        bar = stack.enter_context(progress_bar(pixels, progress))
        stack.enter_context(watching(recorder, strict))
        try:
            for size in pairs:
                for rule in rules:
                    bar.set_description_str(f"{size[0]}x{size[1]} {rule.name}")
                    plan.sample(pipe, recorder, size, rule, train_size, bar)
        except BaseException as error:
            keep_measured(error, recorder)
            raise
    settings = {
        "steps": plan.settings.get("num_inference_steps"),
        "guidance_scale": plan.settings.get("guidance_scale"),
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return recorder.dataset.assign_attrs(seed=seed, **given)


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

    def sample(self, pipe: Any, recorder: Recorder, size: Size, rule: NamedRule, train_size: Any, bar: tqdm) -> None:
        """Sample all prompts at one size with one rule."""
        for start in range(0, len(self.prompts), self.batch_size):
            prompts = self.prompts[start : start + self.batch_size]
            seeds = [self.seed + start + i for i in range(len(prompts))]
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            recorder.begin_run(size=size, scaling=rule.name, prompts=prompts, seeds=seeds)
            with ExitStack() as stack:
                rescaling = None if rule.is_original else stack.enter_context(rescaled(pipe, rule, train_size))
                if self.call is not None:
                    self.call(pipe, size, prompts, generators)
                else:
                    pipe(prompt=prompts, height=size[0], width=size[1], generator=generators, **self.settings)
            recorder.finish_run()
            if rescaling is not None:
                recorder.cells.multipliers[size, rule.name] = rescaling.multipliers()
            bar.update(size[0] * size[1] * len(prompts))


def check_prompts(pipe: Any, prompts: Any) -> list[str]:
    """Prompts as a list: as given, from a text file, or the pipeline's own."""
    if prompts is None:
        return default_prompts(pipe)
    if isinstance(prompts, str | Path):
        path = Path(prompts)
        if not is_file(path):
            raise EntropyLabError(f"prompts must be a list of strings or an existing text file. Got {str(prompts)!r}.")
        try:
            prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise EntropyLabError(f"prompts file {path} must be UTF-8 text. Got {error}.") from error
    if not isinstance(prompts, list | tuple) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise EntropyLabError(f"prompts must name at least one prompt, each a string. Got {prompts!r}.")
    return list(prompts)


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file; False for what can't be a path at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_count(name: str, value: Any, default: Any) -> Any:
    """A positive int, or ``default`` for None."""
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise EntropyLabError(f"{name} must be an int >= 1. Got {value!r}.")
    return value


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
def progress_bar(total: int, shown: bool) -> Iterator[tqdm]:
    """A bar over pixels, which take about equal time, with the time left."""
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left"
    with tqdm(total=total, disable=not shown, bar_format=layout, leave=False) as bar:
        yield bar
