"""``entropylab doctor``: all is well where all is, what is broken on purpose is found, and nobody is given away."""

import json
import os
from pathlib import Path

import pytest
import torch

from entropylab import doctor
from entropylab.entropy import native
from entropylab.errors import EntropyLabError
from entropylab.measuring.recorder import Recorder
from entropylab.measuring.reduce import Reduction

from .command_line import run


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(doctor, "WIDTHS", (40,))


def test_a_sound_machine_and_a_report_without_names(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.getpass, "getuser", lambda: "somebody")
    out = tmp_path / "doctor.json"
    result = run("doctor", "--device", "cpu", "--out", out)
    assert result.exit_code == 0, result.output
    assert "all is well" in result.stdout
    found = json.loads(out.read_text())
    assert found["problems"] == []
    assert found["sampling"]["identical"] and found["sampling"]["repeatable"]
    assert found["sampling"]["layers"] == 12
    usable = {name for name, state in found["backends"].items() if state == "usable"}
    assert {"sdpa", "reference"} <= usable
    assert {one["backend"] for one in found["accuracy"]} >= usable
    assert {one["mask"] for one in found["accuracy"]} == {"none", "boolean", "bias", "causal"}
    assert torch.__version__.startswith(found["versions"]["torch"])
    for private in ("somebody", str(Path.home()), os.getcwd()):
        assert private not in out.read_text() + result.stdout


def test_why_a_backend_can_not_be_used(monkeypatch):
    monkeypatch.setattr(native, "kernel", lambda: "no compiled kernel: none on the PATH")
    found = doctor.backends(torch.device("cpu"))
    assert "none on the PATH" in found["native"]
    assert found["reference"] == "usable"


def test_a_backend_that_is_wrong_or_fails_is_found(monkeypatch):
    right = doctor.row_statistics

    def wrong(q, k, *, backend, **options):
        if backend == "sdpa":
            raise RuntimeError("it does not launch")
        return right(q, k, backend=backend, **options)

    usable = dict.fromkeys(("triton", "native"), "not here") | {"sdpa": "usable", "reference": "usable"}
    assert doctor.wrong_numbers(doctor.accuracy(torch.device("cpu"), usable)) == []
    monkeypatch.setattr(doctor, "row_statistics", wrong)
    (fails,) = doctor.wrong_numbers(doctor.accuracy(torch.device("cpu"), usable))
    assert fails.startswith("sdpa: ") and fails.endswith("fails: it does not launch")
    monkeypatch.setattr(doctor, "row_statistics", lambda q, k, *, scale=None, **options: right(
        q, k, scale=q.shape[-1] ** -0.5 * (1.001 if options["backend"] == "sdpa" else 1), **options
    ))  # fmt: skip
    assert any(
        "sdpa: entropy" in problem for problem in doctor.wrong_numbers(doctor.accuracy(torch.device("cpu"), usable))
    )


@pytest.mark.filterwarnings("ignore::entropylab.errors.EntropyLabWarning")
def test_a_record_that_disturbs_and_a_layer_that_is_not_measured_are_found(monkeypatch, tmp_path):
    seen, of_plain = Recorder.on_attention, Reduction.of_plain

    def disturbs(self, call):
        call.query.mul_(1.01)
        return seen(self, call)

    def fails(self, call):
        if call.layer.endswith("down_blocks.1.attentions.0.transformer_blocks.0.attn1"):
            raise RuntimeError("out of order")
        return of_plain(self, call)

    monkeypatch.setattr(Recorder, "on_attention", disturbs)
    monkeypatch.setattr(Reduction, "of_plain", fails)
    result = run("doctor", "--device", "cpu", "--out", tmp_path / "doctor.json")
    assert result.exit_code == 1
    assert "pictures change while they are recorded" in result.stdout
    assert "1 attention layers ran that were not measured" in result.stdout
    assert "out of order" in (tmp_path / "doctor.json").read_text()


@pytest.mark.parametrize("bad", [{"repeats": 0}, {"device": "cuda:99"}, {"model": "no/such\x00"}])
def test_bad_input(bad):
    with pytest.raises(EntropyLabError):
        doctor.examine(**bad)
