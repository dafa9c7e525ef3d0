"""``entropylab calibrate``, ``evaluate`` and ``compare``: what they hand to the library, say and write."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import entropylab
from entropylab.dataset import ATTRIBUTE
from entropylab.netcdf import save

from ..command_line import refused, run
from ..datasets import under_both
from ..test_calibration import FEW, MixedPipe


@pytest.fixture
def judged(calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`calibrate` and `evaluate` write down what they were called with, and give a little of what they would."""

    def calibrate(pipe: Any, **options: Any) -> entropylab.Calibration:
        calls["calibrate"] = options
        removed = xr.DataArray(np.full((1, 1), 0.875), {"rule": ["calibrated"], "size": ["64x64"]}, ("rule", "size"))
        one = xr.DataArray(np.ones((1, 1, 1)), dims=("size", "layer", "head"))
        return entropylab.Calibration(xr.Dataset({"held_out": removed, "calibrated": one}, attrs={ATTRIBUTE: "0"}))

    def evaluate(pipe: Any, **options: Any) -> xr.Dataset:
        calls["evaluate"] = options
        both = {"size": ["64x64"], "scaling": ["original", "resize"]}
        values = {name: xr.DataArray([[1.5, 2.5]], both, tuple(both)) for name in ("fid", "fid_error")}
        return xr.Dataset(values, attrs={ATTRIBUTE: "0"})

    monkeypatch.setattr(entropylab, "calibrate", calibrate, raising=False)
    monkeypatch.setattr(entropylab, "evaluate", evaluate, raising=False)
    monkeypatch.setattr("entropylab.calibration.save", lambda ds, path, overwrite: calls.update(wrote=path))
    return calls


def test_calibrate_hands_every_option_on(judged: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n", encoding="utf-8")
    words = "--sizes 32 64x96 --samples 1 --steps 5 --guidance 2.5 --seed 9 --rows 64 --iterations 3 --tolerance 0.02 "
    words += "--kinds self,temporal --no-held-out --batch-size 2 --train-size 64 --device cpu --dtype float16 --quiet"
    out = tmp_path / "calibration.nc"
    result = run("calibrate", "m", *words.split(), "--prompts", tmp_path / "prompts.txt", "--out", out)
    assert result.exit_code == 0, result.output
    given = judged["calibrate"]
    assert sorted(given["prompts"]) == ["a cat", "a dog"], "one to calibrate with, one to judge"
    assert (given["sizes"], given["kinds"], given["held_out"]) == ([32, (64, 96)], ("self", "temporal"), False)
    assert (given["guidance_scale"], given["train_size"], given["tolerance"]) == (2.5, (64, 64), 0.02)
    assert judged["load"] == {"model": "m", "dtype": "float16", "device": "cpu"}
    assert judged["wrote"] == out
    assert "0.875" in result.stdout and f"wrote {out}" in result.stdout


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "found.nc"
    entropylab.calibrate(MixedPipe("self_1"), [64], iterations=1, held_out=False, **FEW).save(path)
    return path


def test_a_file_of_a_calibration_is_a_rule_of_every_command(
    judged: dict[str, Any], calibration: Path, tmp_path: Path
) -> None:
    words = ("--sizes", 64, "--scaling", f"original,{calibration},{calibration}:predicted,0.9", "--quiet")
    assert run("measure", *words, "--out", tmp_path / "a.nc").exit_code == 0
    assert run("evaluate", *words, "--out", tmp_path / "b.nc").exit_code == 0
    known = entropylab.Calibration.open(calibration)
    for command in ("measure", "evaluate"):
        original, calibrated, predicted, number = judged[command]["scaling"]
        assert (original, number) == ("original", 0.9)
        for rule, wanted in ((calibrated, known.calibrated), (predicted, known.predicted)):
            assert rule.name == wanted.name
            for tokens, trained in ((64, 16), (36, 16)):
                factors = [each.function.factor("unet.layers.self_1", tokens, trained) for each in (rule, wanted)]
                assert torch.equal(*factors) and not bool((factors[0] == 1).any())
    drawn = run("generate", "a cat", *words[:2], "--scaling", f"{calibration}:invariant", "--out", tmp_path)
    assert drawn.stdout.strip() == str(tmp_path / "64x64_invariant_seed0.png")


def test_files_that_hold_no_calibration_are_refused_before_the_model_is_loaded(
    judged: dict[str, Any], calibration: Path, tmp_path: Path
) -> None:
    run_file, text = tmp_path / "run.nc", tmp_path / "text.nc"
    save(under_both(steps=1, samples=1), run_file)
    text.write_text("no netCDF")
    bad = {
        run_file: (f"{run_file} holds no calibration, but", "entropy", "`entropylab calibrate`"),
        f"original,{run_file}:predicted": ("holds no calibration",),
        text: ("text.nc",),
        tmp_path / "none.nc": ("none.nc",),
        "calibrated": ("needs a calibration", "FILE.nc:calibrated"),
        f"{calibration}:wisdom": ("rules of a calibration are invariant", "wisdom"),
    }
    for rule, said in bad.items():
        refused(run("measure", "--size", 64, "--out", tmp_path / "out.nc", "--scaling", rule), *said)
    for command in (("evaluate",), ("generate", "a cat")):
        refused(run(*command, "--size", 64, "--out", tmp_path / "out.nc", "--scaling", run_file), *bad[run_file])
    assert judged == {}


def test_evaluate_hands_every_option_on(judged: dict[str, Any], tmp_path: Path) -> None:
    words = "--sizes 64 --scaling original,0.9,resize --samples 3 --steps 5 --guidance 2.5 --seed 9 --metrics fid,time "
    words += "--features inception --clip org/clip --batch-size 2 --train-size 64 --resamples 10 --quiet"
    out, real = tmp_path / "evaluation.nc", tmp_path / "real"
    result = run("evaluate", "m", *words.split(), "--reference", real, "--pictures", tmp_path / "p", "--out", out)
    assert result.exit_code == 0, result.output
    given = judged["evaluate"]
    assert (given["resamples"], given["samples"], given["features"]) == (10, 3, "inception")
    assert (given["scaling"], given["metrics"]) == (["original", 0.9, "resize"], ("fid", "time"))
    assert (given["reference"], given["pictures"], given["clip"]) == (real, tmp_path / "p", "org/clip")
    assert judged["save"] == {"path": out, "overwrite": False}
    assert result.stdout.split()[-4:] == ["resize", "2.5", "wrote", str(out)]
    assert "fid_error" not in result.stdout


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["evaluate", "--engine", "ray"], "pass --pictures, a folder"),
        (["measure", "--engine", "ray"], "pass --out, a folder"),
        (["measure", "--words", "red"], "pass --maps, the name of a file"),
        (["evaluate", "--address", "auto"], "pass --engine ray."),
    ],
)
def test_what_is_missing_is_named_as_an_option(tmp_path: Path, words: list[str], option: str) -> None:
    refused(run(*words, "--sizes", 64, "--out", tmp_path / "ds.nc"), option)


def test_evaluate_on_a_cluster(judged: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline is handed over as what loads it; of several processes one writes the result."""
    words = "--sizes 64 --engine ray --address auto --resources num_cpus=2,num_gpus=0.5 --quiet"
    out, before = tmp_path / "evaluation.nc", dict(judged)
    result = run("evaluate", "m", *words.split(), "--pictures", tmp_path / "p", "--out", out)
    assert result.exit_code == 0, result.output
    given = {name: judged["evaluate"][name] for name in ("engine", "address", "resources")}
    assert given == {"engine": "ray", "address": "auto", "resources": {"num_cpus": 2.0, "num_gpus": 0.5}}
    assert "load" not in judged.keys() - before.keys(), "nothing is loaded here"
    assert judged.pop("save")["path"] == out
    monkeypatch.setattr("entropylab.cli.judging.is_first", lambda: False)
    assert run("evaluate", "m", "--sizes", 64, "--out", out, "--quiet").exit_code == 0
    assert "save" not in judged


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("calibrate --sizes 64 --kinds wisdom", "kinds must be some of"),
        ("calibrate --sizes 64 --train-size 32,64", "train-size must be one size"),
        ("calibrate --sizes x", "sizes must be whole numbers"),
        ("evaluate --sizes 64 --scaling resise", "Baselines are"),
        ("evaluate --sizes 64 --metrics wisdom", "metrics must be some of"),
        ("evaluate --sizes 64 --prompts none.txt", "none.txt"),
    ],
)
def test_words_are_checked_before_the_model_is_loaded(
    words: str, message: str, judged: dict[str, Any], tmp_path: Path
) -> None:
    refused(run(*words.split(), "--out", tmp_path / "a.nc"), message)
    (tmp_path / "a.nc").touch()
    refused(run(*words.split()[:1], "--sizes", 64, "--out", tmp_path / "a.nc"), "exists already")
    assert judged == {}


def test_compare_on_the_command_line(tmp_path: Path) -> None:
    ds = under_both(steps=1, samples=3)
    path, out = tmp_path / "both.nc", tmp_path / "layers.csv"
    entropylab.save(ds, path)
    words = ("--scaling", "original", "--other-scaling", "sqrt_log", "--size", 128)
    result = run("compare", path, path, *words, "--out", out)
    assert result.exit_code == 0, result.output
    found = entropylab.compare(ds, ds, scaling="original", other_scaling="sqrt_log", size=128)
    assert found.summary() in result.stdout
    np.testing.assert_allclose(pd.read_csv(out)["difference"], found["difference"], rtol=1e-4)
    refused(run("compare", path, path, *words, "--out", out), "exists already")
    refused(run("compare", path, path, "--size", "64,32"), "size must be one size")
    refused(run("compare", path, path, "--other-scaling", "yarn"), "scaling must be one of")
