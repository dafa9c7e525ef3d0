"""What decides the numbers of a run: kept with it, so that it can't go on with something else unnoticed."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..checkpoints import digest_of_weights
from ..measuring.provenance import provenance
from ..pipelines import denoisers
from ..prompts import digest
from ..scaling import RULES, LayerRule, NamedRule, at_work, known_train_size
from ..sizes import Size, size_label

PROBES = (16, 64, 77, 256, 1024, 4096, 9216)
"""Numbers of tokens at which a rule is asked for its factor, to tell it from another rule of the same name."""

TIMES = (0.0, 0.3, 1.0, 300.0, 999.0)
"""Timesteps at which a rule that sees them is asked."""

JOINED = ("sizes", "scaling", "rules", "samples", "prompts", "seed", "unit_samples")
"""What may differ between runs that are joined: what makes a unit a unit of another sample, size or rule."""

FROM_PIPE = ("model", "revision", "pipeline", "scheduler", "scheduler_config", "dtype")


def configuration_of(
    pipe: Any, plan: Any, recorder: Any, sizes: Sequence[Size], rules: Sequence[NamedRule], train_size: Any, each: int
) -> dict[str, Any]:
    """Everything that decides the numbers, as JSON can hold it; ``each`` is the number of samples of a unit."""
    source = provenance(pipe)
    found = {
        **{name: source[name] for name in FROM_PIPE if name in source},
        "weights": digest_of_weights(pipe),
        "sizes": [size_label(size) for size in sizes],
        "scaling": [rule.name for rule in rules],
        "rules": [fingerprint(rule) + manner(pipe, rule, train_size) for rule in rules],
        "samples": len(plan.prompts),
        "prompts": digest(plan.prompts),
        "seed": plan.seed,
        "settings": plan.settings,
        "call": "" if plan.call is None else getattr(plan.call, "__qualname__", type(plan.call).__name__),
        "batch_size": plan.batch_size,
        "unit_samples": each,
        "statistics": recorder.reduction.statistics,
        "rows": recorder.reduction.rows,
        "layers": recorder.patterns,
        "keep": recorder.keep,
        "train_size": train_size,
    }
    return json.loads(json.dumps(found, default=str))


def manner(pipe: Any, rule: NamedRule, train_size: Any) -> str:
    """What tells a rule that rescales the pipeline already from the same rule as ``measure`` would apply it."""
    working = at_work(denoisers(pipe).values())
    if working is None or working.rule is not rule or rule.is_original:
        return ""
    trained = known_train_size(pipe, train_size) if rule.needs_sizes else None
    return "" if working.is_usual(trained) else f" of {working.train_size} in {', '.join(working.kinds)}"


def fingerprint(rule: NamedRule) -> str:
    """What tells a rule from another of the same name: its factors."""
    if RULES.get(rule.name) is rule.function:
        return rule.name
    if isinstance(rule.function, LayerRule):
        known: dict[str, Any] = dataclasses.asdict(rule.function) if dataclasses.is_dataclass(rule.function) else {}
        return sha(json.dumps(known, default=lambda value: np.asarray(value).tolist(), sort_keys=True))
    times: list[dict[str, Any]] = [{"timestep": torch.tensor(time)} for time in TIMES] if rule.sees_time else [{}]
    factors = [probe(rule.function, tokens, trained, more) for tokens in PROBES for trained in PROBES for more in times]
    return sha(json.dumps(factors))


def probe(function: Any, tokens: int, trained: int, more: Mapping[str, Any]) -> Any:
    """What a rule says for some N and T, and a time if it sees that."""
    try:
        return torch.as_tensor(function(tokens, trained, **more), dtype=torch.float64).tolist()
    except Exception as error:  # a rule may refuse what no layer has
        return type(error).__name__


def sha(text: str) -> str:
    """A short digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_of(configuration: Mapping[str, Any]) -> str:
    """What every unit carries, to tell whose it is."""
    return sha(json.dumps(configuration, sort_keys=True))


def differences(there: Mapping[str, Any], now: Mapping[str, Any], but: Sequence[str] = ()) -> list[str]:
    """Where two configurations differ, each as "name: what is there, then what is now"; settings one by one."""
    flat_there, flat_now = flattened(there), flattened(now)
    return [
        f"{name}: {json.dumps(flat_there.get(name)):.100} there, {json.dumps(flat_now.get(name)):.100} now"
        for name in {**flat_there, **flat_now}
        if name.split(".")[0] not in but and flat_there.get(name) != flat_now.get(name)
    ]


def flattened(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and the scheduler's configuration, which is JSON or "", one name each."""
    found: dict[str, Any] = {}
    for name, value in configuration.items():
        inner = json.loads(value or "{}") if name == "scheduler_config" else value
        found |= {f"{name}.{key}": each for key, each in inner.items()} if isinstance(inner, dict) else {name: inner}
    return found
