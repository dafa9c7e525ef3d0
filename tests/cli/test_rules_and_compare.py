"""Files of calibrations as rules of every command, and ``entropylab compare``."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import entropylab
from entropylab.netcdf import save

from ..command_line import refused, run
from ..datasets import under_both
from ..test_calibration import FEW, MixedPipe


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "found.nc"
    entropylab.calibrate(MixedPipe("self_1"), [64], iterations=1, held_out=False, **FEW).save(path)
    return path


def test_a_file_of_a_calibration_is_a_rule_of_every_command(
    calls: dict[str, Any], calibration: Path, tmp_path: Path
) -> None:
    words = ("--sizes", 64, "--scaling", f"original,{calibration},{calibration}:predicted,0.9", "--quiet")
    assert run("measure", *words, "--out", tmp_path / "a.nc").exit_code == 0
    assert run("evaluate", *words, "--out", tmp_path / "b.nc").exit_code == 0
    known = entropylab.Calibration.open(calibration)
    for command in ("measure", "evaluate"):
        original, calibrated, predicted, number = calls[command]["scaling"]
        assert (original, number) == ("original", 0.9)
        for rule, wanted in ((calibrated, known.calibrated), (predicted, known.predicted)):
            assert rule.name == wanted.name
            for tokens, trained in ((64, 16), (36, 16)):
                factors = [each.function.factor("unet.layers.self_1", tokens, trained) for each in (rule, wanted)]
                assert torch.equal(*factors) and not bool((factors[0] == 1).any())


def test_files_that_hold_no_calibration_are_refused_before_the_model_is_loaded(
    calls: dict[str, Any], calibration: Path, tmp_path: Path
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
    assert calls == {}


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
