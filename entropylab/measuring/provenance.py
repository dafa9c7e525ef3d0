"""Where a result comes from: enough to repeat it."""

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import distributions
from typing import Any

from torch import nn

from ..models.prompts import embedded_name
from ..pipelines import config_of, denoisers

PACKAGES = ("entropylab", "torch", "diffusers", "transformers", "numpy")


@lru_cache(maxsize=4)
def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions of what decides the numbers."""
    found = {package: next(iter(distributions(name=package)), None) for package in packages}
    return {package: "not installed" if known is None else known.version for package, known in found.items()}


def command() -> str:
    """The command line of this process, without secrets; "" in a notebook, whose kernel's says nothing of what ran."""
    return "" if any("ipykernel" in word for word in sys.orig_argv) else shlex.join(without_secrets(sys.orig_argv))


SECRET = (
    r"[\w-]{0,40}(?:token(?!s)|passw|passphrase|pwd|secret|credential|auth(?!or(?!i[sz]))|signature|apikey|(?<![a-z])key(?![sw]))"
    r"[\w-]{0,40}"
)
"""Names whose values are nobody else's business."""

OPTION = re.compile(rf"--?{SECRET}", re.IGNORECASE)
ASSIGNED = re.compile(
    rf"""(?P<name>{SECRET}["']?\s*[=:]\s*)(?!//)(?P<value>"[^"]*"|'[^']*'|(?:(?:bearer|basic|token)\s+)?[^\s&,;"')]+)""",
    re.IGNORECASE,
)
IN_URL = re.compile(r"(://)[^/\s@]+@")
OF_THE_HUB = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")
HIDDEN = "***"


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line in which values of options such as --token, and passwords in addresses, are "***"."""
    shown: list[str] = []
    for place, word in enumerate(words):
        if place and OPTION.fullmatch(words[place - 1]) and not word.startswith("--"):
            shown.append(HIDDEN)
            continue
        word = IN_URL.sub(rf"\1{HIDDEN}@", word)
        word = ASSIGNED.sub(lambda found: found["name"] + HIDDEN, word)
        shown.append(OF_THE_HUB.sub(HIDDEN, word))
    return shown


SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")
"""Where the hub's cache keeps a revision of a model."""


def revision_of(pipe: Any) -> str:
    """The commit on the hub that the denoisers' weights are of; "" if that can't be told."""
    for root in denoisers(pipe).values():
        config = config_of(root)
        source = config.get("_name_or_path") if isinstance(config, Mapping) else None
        found = SNAPSHOT.search(str(source).replace("\\", "/"))
        if found:
            return found.group(1)
    return ""


def scheduler_config(pipe: Any) -> str:
    """The settings of the pipeline's scheduler as JSON; "" if it has none."""
    config = getattr(getattr(pipe, "scheduler", None), "config", None)
    if isinstance(pipe, nn.Module) or not isinstance(config, Mapping):
        return ""
    known = {name: value for name, value in sorted(config.items()) if not name.startswith("_")}
    return json.dumps(known, default=str)


def provenance(pipe: Any) -> dict[str, str]:
    """Model, scheduler, dtype, device and versions, as attributes of a Dataset."""
    (first, *_) = denoisers(pipe).values()
    parameter = next(first.parameters(), None)
    found = versions()
    named = getattr(pipe, "name_or_path", None) or getattr(getattr(pipe, "config", None), "_name_or_path", None)
    return {
        "model": str(embedded_name(pipe) or named or type(pipe).__name__),
        "revision": revision_of(pipe),
        "pipeline": type(pipe).__name__,
        "scheduler": "" if isinstance(pipe, nn.Module) else type(getattr(pipe, "scheduler", None)).__name__,
        "scheduler_config": scheduler_config(pipe),
        "dtype": str(getattr(parameter, "dtype", "")).removeprefix("torch."),
        "device": str(getattr(parameter, "device", "")),
        "versions": json.dumps(found),
        "entropylab_version": found["entropylab"],
    }
