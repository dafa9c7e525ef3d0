"""``record``: measure attention while somebody else's code samples."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

from .. import pipelines
from ..errors import EntropyLabError, EntropyLabWarning, check_count, counted, names_of
from ..pipelines import KINDS
from ..pipelines.sight import observed
from ..pipelines.words import Words
from ..scaling import known_train_size
from ..sizes import Size
from .cells import Cells, check_keep
from .live import Live, OnStep, check_on_step
from .maps import VARIABLES, Maps
from .recorder import Recorder
from .reduce import Reduction, check_statistics

DEFAULT_STATISTICS = ("entropy", "sigma2")


@contextmanager
def record(
    pipe: Any,
    *,
    statistics: Sequence[str] = DEFAULT_STATISTICS,
    rows: int | None = None,
    layers: str | Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    strict: bool = False,
    maps: bool = False,
    on_step: OnStep | None = None,
    received: bool = False,
    words: str | Sequence[str] | None = None,
) -> Iterator[Recorder]:
    """Measure the attention of ``pipe`` while your own code samples from it.

    Args:
        pipe: a diffusers pipeline, or any torch.nn.Module.
        statistics: what to measure, each averaged over query rows: "entropy", "lse", "mean" [nats], "sigma2",
            "sensitivity" [nats^2], "third" [nats^3], "fourth" [nats^4]; and, of as many query rows as ``rows`` says or
            256, "slope", dH/dlog N of a row by leaving out each key, and "rarefied" [nats], its entropy among a random
            half, quarter, eighth and sixteenth of its keys, as ``rarefied_half``, ... (NaN where that is less than a
            key; in joint attention, of the image's keys beside all others). "gaussian" [nats] is the entropy that
            Gaussian logits of each row's variance would have; with it comes ``unexplained``, the share of rows whose
            own is further from that than chance would have it (about 0.05 of Gaussian rows are). Nothing in these
            three is fitted.
        rows: look at this many query rows only, a fixed random subset, the same in every run, and add the standard
            errors ``entropy_se``, ... of the means over rows (averaged like them, which overstates the error of an
            average over heads or steps); None for all.
        layers: measure only layers whose path matches one of these patterns (``"*attn1"``) or that are of this kind
            ("self", "cross", "joint", "temporal").
        keep: dimensions to keep apart, of branch, sample, step, layer, head; the others are averaged. None keeps all.
        strict: raise if an attention layer ran that could not be measured, instead of naming it in the result.
        maps: keep the entropy of every query row too, in its place in the picture. Of branch, step and head those are
            kept apart that ``keep`` names (branches alone by default), samples and layers always.
        received: keep received attention, in the same way: the weight that each key gets, mean over query rows.
        words: keep the weight that the image's rows give to these words of the prompt, in the same way: the sum over a
            word's tokens, wherever it occurs. Capitals don't matter, and signs stay out: "hat" is in "A red Hat!", and
            not in "that". The pipeline's own text encoders must make the prompt while it is recorded.
        on_step: ``on_step(dataset)`` is called after every step with what that step gave: a Dataset with the dimensions
            that ``keep`` names and one step. On a GPU it comes when the numbers have, as a rule a step later; nothing
            waits for them before the pipeline's call is over. If it raises, it is not called again, and a warning says
            so; sampling and measuring go on. What it makes the pipeline do itself is not measured.

    Yields:
        A Recorder; its ``dataset`` is an xarray.Dataset like that of ``entropylab.measure``, and its ``maps`` an
        xarray.DataTree: for each size a group, and in it one for each grid of tokens, such as "64x64/16x16", with
        ``entropy`` [nats] of dimensions (scaling, branch, sample, layer, y, x), of videos with ``frame``; y and x are
        the centres of tokens [pixels]. Rows of text are in groups such as "64x64/text_77", with a dimension ``token``.
        ``received`` [fraction] stands where the keys do, ``words`` [fraction], with a dimension ``word``, where the
        rows do; of samples and branches without a word it is NaN. Layers and words without a map are named, with the
        reason, in its attribute ``unplaced``.

    Raises:
        EntropyLabError: ``pipe`` has no denoiser or no attention, or an argument does not fit. A call of the pipeline
            whose prompts have none of a word of ``words`` ends with one, before it samples.

    Examples:
        >>> with entropylab.record(pipe, layers="self") as rec:
        ...     image = pipe("a red heart", height=64, width=64, num_inference_steps=2).images[0]
        >>> rec.dataset.entropy.mean(["branch", "sample", "layer", "head"]).sizes
        Frozen({'size': 1, 'scaling': 1, 'step': 2})
        >>> rec.unmeasured  # layers that ran and could not be measured
        {}
        >>> with entropylab.record(pipe, words="heart", received=True) as rec:
        ...     image = pipe("a red heart", height=64, width=64, num_inference_steps=2).images[0]
        >>> rec.maps["64x64/16x16"].words.mean("layer").dims
        ('scaling', 'branch', 'sample', 'word', 'y', 'x')
    """
    recorder = new_recorder(
        pipe, statistics, rows, layers, keep, maps=maps, received=received, words=words, on_step=on_step
    )
    with watching(recorder, strict):
        yield recorder


@contextmanager
def watching(recorder: Recorder, strict: bool = False) -> Iterator[None]:
    """Let ``recorder`` watch its pipeline while the context lasts."""
    told = {"on_forward": recorder.on_forward, "on_output": recorder.on_output}
    with ExitStack() as stack:
        if recorder.words is not None:
            stack.enter_context(recorder.words.followed())
        recorder.observer = stack.enter_context(observed(recorder, recorder.on_attention, **told))
        try:
            yield
        except BaseException:
            recorder.finish_run(whole=False)
            raise
        recorder.finish_run()
    report_unmeasured(recorder, strict)
    if recorder.live is not None and recorder.live.problem is not None:
        raise recorder.live.problem
    report_unstepped(recorder)
    report_untold(recorder)
    report_unplaced(recorder)
    report_bad(recorder.cells, stacklevel=5)


def report_unmeasured(recorder: Recorder, strict: bool) -> None:
    """Say which attention layers ran and were not measured: a warning, or with ``strict`` an error."""
    if not recorder.unmeasured:
        return
    listed = "; ".join(f"{path} ({reason})" for path, reason in recorder.unmeasured.items())
    message = f"{counted(len(recorder.unmeasured), 'attention layer')} ran that could not be measured: {listed}"
    if strict:
        error = EntropyLabError(message)
        if recorder.cells.timesteps:
            error.dataset = recorder.dataset  # type: ignore[attr-defined]
        raise error
    warnings.warn(message, EntropyLabWarning, stacklevel=5)


def report_unstepped(recorder: Recorder) -> None:
    """Warn of runs of which nothing was kept, beside others, for nobody heard a scheduler make a step in them."""
    if recorder.lost and recorder.cells.timesteps:
        warnings.warn(
            f"{counted(recorder.lost, 'run')} left nothing: a denoiser ran after `set_timesteps`, and no `step` of its "
            "scheduler was heard",
            EntropyLabWarning,
            stacklevel=5,
        )


def report_untold(recorder: Recorder) -> None:
    """Warn of models in which the tokens could not be followed, so that nobody knows what they stand for."""
    untold = recorder.observer.untold if recorder.observer else {}
    if untold and any(label.part == "unknown" for label in recorder.cells.layers.values()):
        listed = "; ".join(f"{name} ({reason})" for name, reason in untold.items())
        warnings.warn(
            f"what the tokens stand for could not be told, so the part of layers is 'unknown', in {listed}",
            EntropyLabWarning,
            stacklevel=5,
        )


def report_unplaced(recorder: Recorder) -> None:
    """Warn of layers, and of words, without a map: where their rows stand in the picture can't be told, say."""
    unplaced = recorder.kept_maps.missing if recorder.kept_maps is not None else {}
    if unplaced:
        listed = "; ".join(f"{path} ({reason})" for path, reason in list(unplaced.items())[:5])
        more = f" and {len(unplaced) - 5} more" if len(unplaced) > 5 else ""
        what = ("layer", "layers") if recorder.words is None else ("layer or word", "layers and words")
        said = f"{counted(len(unplaced), *what)} got no map: {listed}{more}"
        warnings.warn(said, EntropyLabWarning, stacklevel=5)


def report_bad(cells: Cells, stacklevel: int) -> None:
    """Warn of layers with rows that were left out for NaN or infinity in their query or keys."""
    bad: dict[str, int] = {}
    for layers in cells.counted.values():
        for path, known in layers.items():
            bad[path] = bad.get(path, 0) + int(known.bad)
    listed = [f"{path} ({rows} rows)" for path, rows in sorted(bad.items(), key=lambda each: -each[1]) if rows]
    if listed:
        more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        warnings.warn(
            "rows with NaN or infinity in their query or keys are left out, and counted in rows_bad: "
            f"{', '.join(listed[:5])}{more}",
            EntropyLabWarning,
            stacklevel=stacklevel,
        )


def new_recorder(
    pipe: Any,
    statistics: Any,
    rows: Any,
    layers: Any,
    keep: Any,
    train_size: Size | None = None,
    maps: bool = False,
    received: bool = False,
    words: Any = None,
    on_step: OnStep | None = None,
) -> Recorder:
    """A Recorder, its arguments checked."""
    for name, value in (("maps", maps), ("received", received)):
        if not isinstance(value, bool):
            raise EntropyLabError(f"{name} must be True or False. Got {value!r}.")
    asked = {"entropy": maps, "received": received, "words": words is not None}
    variables = tuple(name for name in VARIABLES if asked[name])
    if variables and rows is not None:
        raise EntropyLabError(f"maps are of every query row: leave rows out. Got rows={rows!r}.")
    check_on_step(on_step)
    pipelines.check_attends(pipe)
    patterns = check_patterns(pipe, layers)
    given = check_statistics(statistics), check_count("rows", rows, None)
    of_rows = ("entropy", "lse") if set(variables) - {"entropy"} else variables
    reduction = Reduction(*given, of_rows)
    keep = check_keep(keep)
    recorder = Recorder(pipe, reduction, patterns, keep, known_train_size(pipe, train_size))
    if variables:
        apart = ("branch",) if keep is None else keep
        recorder.kept_maps = Maps(variables, apart, None if words is None else Words(pipe, words))
    recorder.live = Live(on_step) if on_step is not None else None
    return recorder


def check_patterns(pipe: Any, patterns: Any) -> tuple[str, ...]:
    """Layer patterns as a tuple; each must match some layer of ``pipe``."""
    if patterns is None:
        return ()
    known = [*pipelines.layers(pipe), *pipelines.layers_of(pipelines.conditioners(pipe))]
    chosen = names_of(patterns)
    for pattern in chosen:
        if pattern not in KINDS and not any(fnmatchcase(layer.path, pattern) for layer in known):
            raise EntropyLabError(
                f"layers must be kinds ({', '.join(KINDS)}) or patterns of layer paths such as {known[0].path!r}. "
                f"Got {pattern!r}, which matches none of the {len(known)} layers."
            )
    if not chosen:
        raise EntropyLabError(f"layers must name at least one kind or pattern, or be None for all. Got {patterns!r}.")
    return chosen
