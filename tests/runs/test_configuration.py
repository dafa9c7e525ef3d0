"""What tells a run from another: revision, scheduler, rules; and how a difference is shown."""

import json
from types import SimpleNamespace
from typing import Any

import torch

from entropylab.measuring.provenance import provenance, scheduler_config
from entropylab.runs.configuration import differences, digest_of, fingerprint
from entropylab.scaling import LayerRule, NamedRule, named_rule

from .stub import Stub

REVISION = "5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06"
REVISIONS = {
    f"/home/me/hub/models--org--name/snapshots/{REVISION}/unet": REVISION,
    f"C:\\hub\\models--org--name\\snapshots\\{REVISION}\\unet": REVISION,
    f"/somewhere/snapshots/{REVISION}": REVISION,
    "/home/me/snapshots/best/unet": "",
    "org/name": "",
    None: "",
}


def test_the_revision_of_a_model_from_the_hub_and_the_schedulers_settings() -> None:
    pipe: Any = Stub()
    for source, revision in REVISIONS.items():
        pipe.unet.config = {"_name_or_path": source}
        assert provenance(pipe)["revision"] == revision
    assert scheduler_config(pipe) == scheduler_config(pipe.unet) == ""
    pipe.scheduler = SimpleNamespace(config={"steps_offset": 1, "beta_start": 0.1, "_class_name": "DDIM"})
    assert json.loads(scheduler_config(pipe)) == {"beta_start": 0.1, "steps_offset": 1}


class ByLayer(LayerRule):
    check = factor = lambda *arguments: 1.0


def test_rules_are_told_apart_by_what_they_give() -> None:
    def mine(factor: float) -> NamedRule:
        return NamedRule("mine", lambda tokens, trained: factor * tokens / trained)

    fading = [NamedRule("timed", lambda n, t, timestep, power=power: 1 + timestep**power) for power in (1, 2)]
    rules = [named_rule("sqrt_log"), mine(1.0), mine(1.0 + 1e-12), NamedRule("by layer", ByLayer()), *fading]
    rules += [NamedRule("sqrt_log", lambda n, t: 1.0), NamedRule("strict", lambda n, t: 1 / 0)]
    rules += [NamedRule("per head", lambda n, t: torch.tensor([1.0, 2.0]))]
    found = [fingerprint(rule) for rule in rules]
    assert found[0] == "sqrt_log"
    assert len(set(found)) == len(rules)
    assert found[1] == fingerprint(mine(1.0)) and found[4] == fingerprint(fading[0])


def test_differences_are_shown_one_by_one() -> None:
    there = {"seed": 0, "scheduler_config": '{"a": 1, "b": 2}', "settings": {"steps": 20}, "long": "x" * 200}
    now = {"seed": 1, "scheduler_config": '{"a": 1, "b": 3}', "settings": {"steps": 20, "more": True}}
    assert differences(there, there) == []
    *shown, cut_off = sorted(differences(there, now), key=len)
    settings = ["scheduler_config.b: 2 there, 3 now", "settings.more: null there, true now"]
    assert shown == ["seed: 0 there, 1 now", *settings]
    assert cut_off.startswith('long: "xxx') and len(cut_off) < 150
    assert differences(there, now, but=("seed", "settings", "long")) == settings[:1]
    assert digest_of(dict(reversed(there.items()))) == digest_of(there) != digest_of(now)
