"""What ``measure`` is asked for, checked before any sampling."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import pipelines
from ..errors import EntropyLabError, check_count, is_number
from ..models.prompts import default_prompts, default_settings
from ..prompts import Prompts, check_list, read_prompts
from ..scaling import LayerRule, NamedRule, at_work, check_train_size, named_rule, train_size_of


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
    """``scaling`` as rules: some, different in name, and with a known training size if they need it.

    Of a pipeline that is rescaled, what it does as it is, "original", is the rule at work.
    """
    rules = [named_rule(rule) for rule in (scaling if isinstance(scaling, list | tuple) else [scaling])]
    names = [rule.name for rule in rules]
    if not names or len(set(names)) < len(names):
        raise EntropyLabError(f"scaling must name at least one rule, each once. Got {names}.")
    original = all(rule.is_original for rule in rules)
    working = at_work(pipelines.denoisers(pipe).values())
    if working is not None and not original:
        raise EntropyLabError(
            f"pipe is rescaled already, by {working.rule.name!r}: end that `rescale`, or measure what it does with "
            f"scaling='original'. Got {names}."
        )
    if working is not None:
        return [working.rule]
    if not original:
        check_train_size(pipe, train_size)
    for rule in rules:
        if isinstance(rule.function, LayerRule):
            rule.function.check(pipe)
            train_size_of(rule, pipe, train_size)
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
    if guidance_scale is not None and not (is_number(guidance_scale) and math.isfinite(guidance_scale)):
        raise EntropyLabError(f"guidance_scale must be a finite number. Got {guidance_scale!r}.")
    defaults = default_settings(pipe)
    check_steps(pipe, check_count("steps", steps, 1))
    settings = {
        "num_inference_steps": check_count("steps", steps, defaults.get("num_inference_steps")),
        "guidance_scale": defaults.get("guidance_scale") if guidance_scale is None else guidance_scale,
        "output_type": "latent",
        "use_resolution_binning": False,  # PixArt and Sana would sample another size than asked
    }
    return {name: value for name, value in settings.items() if value is not None and name in taken}


def check_steps(pipe: Any, steps: int) -> None:
    """More steps than timesteps in training are refused where the pipeline's scheduler has no use for them."""
    scheduler = getattr(pipe, "scheduler", None)
    config = getattr(scheduler, "config", None)
    trained = config.get("num_train_timesteps") if isinstance(config, Mapping) else None
    if not isinstance(trained, int) or steps <= trained:
        return
    trial = copy.deepcopy(scheduler)
    try:
        trial.set_timesteps(steps)  # type: ignore[union-attr]
        fits = len(set(trial.timesteps.tolist())) > 1  # type: ignore[union-attr]
    except ValueError as error:
        fits = "num_inference_steps" not in str(error)
    except (AttributeError, KeyError, RuntimeError, TypeError):  # it wants more than a number of steps
        fits = True
    if not fits:
        raise EntropyLabError(
            f"steps must be at most {trained}, as many as {type(scheduler).__name__} has timesteps. Got {steps}."
        )
