"""What commands hand to the library, say and write; and what they check before any model is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import entropylab
from entropylab.errors import EntropyLabError

from ..command_line import refused, run
from ..conftest import new_random_pipeline

HANDED_ON = {
    "measure --rows 64 --sizes 64 --scaling original,sqrt_log,0.9 --statistics entropy,lse --statistics third "
    "--layers self,*attn2 --layers joint --keep layer,sample --strict": {
        "sizes": [64],
        "scaling": ["original", "sqrt_log", 0.9],
        "statistics": ("entropy", "lse", "third"),
        "layers": ["self", "*attn2", "joint"],
        "keep": ("sample", "layer"),
        "strict": True,
        "received": False,
        "rows": 64,
    },
    "calibrate --rows 64 --sizes 32 64x96 --iterations 3 --tolerance 0.02 --kinds self,temporal --no-held-out": {
        "sizes": [32, (64, 96)],
        "iterations": 3,
        "tolerance": 0.02,
        "kinds": ("self", "temporal"),
        "held_out": False,
        "rows": 64,
    },
    "evaluate --sizes 64 --scaling original,0.9,resize --metrics fid,time --features inception "
    "--clip org/clip --resamples 10 --reference real --pictures p": {
        "sizes": [64],
        "scaling": ["original", 0.9, "resize"],
        "metrics": ("fid", "time"),
        "features": "inception",
        "clip": "org/clip",
        "resamples": 10,
        "reference": Path("real"),
        "pictures": Path("p"),
    },
}
SAID = {"measure": "entropylab fit out.nc", "calibrate": "0.875 wrote out.nc", "evaluate": "resize 2.5 wrote out.nc"}


@pytest.mark.parametrize("words", HANDED_ON)
def test_every_option_is_handed_on(
    words: str, calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a cat\n\n  ein Bär \n", encoding="utf-8")
    command, *rest = words.split()
    same = "--samples 2 --steps 5 --guidance 2.5 --seed 9 --batch-size 2 --train-size 64 --device cpu --dtype float16"
    more = ("--prompts", "prompts.txt", "--quiet", "--overwrite", "--out", "out.nc")
    result = run(command, "m", *rest, *same.split(), *more)
    assert result.exit_code == 0, result.output
    known = {"samples": 2, "steps": 5, "guidance_scale": 2.5, "seed": 9, "batch_size": 2, "train_size": (64, 64)}
    assert sorted(calls[command].pop("prompts")) == ["a cat", "ein Bär"]
    assert calls[command] == {**known, "progress": False, **HANDED_ON[words]}
    assert calls["load"] == {"model": "m", "dtype": "float16", "device": "cpu"}
    assert calls["save"] == {"path": Path("out.nc"), "overwrite": True}
    assert SAID[command] in " ".join(result.stdout.split())
    assert "fid_error" not in result.stdout


def test_maps_go_to_a_file_beside_the_measurement(calls: dict[str, Any], tmp_path: Path) -> None:
    out, maps = tmp_path / "a.nc", tmp_path / "maps.nc"
    assert run("measure", "--sizes", 64, "--out", out, "--maps", maps, "--overwrite").exit_code == 0
    assert calls["measure"]["maps"] == maps and calls["measure"]["overwrite"] is True
    for beside in (maps, tmp_path / "run"):
        refused(run("measure", "--sizes", 64, "--out", beside, "--maps", maps), "maps must be a file beside out")
    assert not (tmp_path / "run").exists(), "nothing is left of what was refused"
    maps.touch()
    refused(run("measure", "--sizes", 64, "--out", out, "--maps", maps), "maps.nc exists already")


def test_evaluate_on_a_cluster(calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline is handed over as what loads it; of several processes one writes the result."""
    words = "--sizes 64 --engine ray --address auto --resources num_cpus=2,num_gpus=0.5 --quiet"
    out = tmp_path / "evaluation.nc"
    result = run("evaluate", "m", *words.split(), "--pictures", tmp_path / "p", "--out", out)
    assert result.exit_code == 0, result.output
    given = {name: calls["evaluate"][name] for name in ("engine", "address", "resources")}
    assert given == {"engine": "ray", "address": "auto", "resources": {"num_cpus": 2.0, "num_gpus": 0.5}}
    assert "load" not in calls, "nothing is loaded here"
    assert calls.pop("save")["path"] == out
    monkeypatch.setattr("entropylab.cli.judging.is_first", lambda: False)
    assert run("evaluate", "m", "--sizes", 64, "--out", out, "--quiet").exit_code == 0
    assert "save" not in calls


def test_of_processes_that_are_started_by_hand_the_first_writes(
    calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, judge = ["evaluate", "m", "--sizes", 64, "--quiet", "--out", tmp_path / "out.nc"], entropylab.evaluate

    def with_another(*given: Any, **named: Any) -> Any:
        (tmp_path / "out.nc").touch()
        return judge(*given, **named)

    monkeypatch.setattr("entropylab.evaluate", with_another)
    result = run(*words, "--pictures", tmp_path / "p")
    assert result.exit_code == 0 and "another process has written it" in result.stdout, result.output
    assert "save" not in calls
    assert run(*words, "--pictures", tmp_path / "p", "--overwrite").exit_code == 0
    assert calls.pop("save")["overwrite"] is True
    (tmp_path / "out.nc").unlink()
    run(*words)
    assert "save" in calls, "which refuses what is there"


def test_layers_are_listed(calls: dict[str, Any]) -> None:
    header, line = run("layers", "org/model").stdout.splitlines()
    assert header.split() == ["path", "kind", "heads", "processor"]
    assert line.split() == ["unet.mid_block.attn1", "self", "8", "AttnProcessor"]
    assert calls["load"]["model"] == "org/model"


def test_generate_writes_an_image_for_each_size_and_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = new_random_pipeline()
    monkeypatch.setattr(entropylab, "load", lambda *arguments, **options: pipe, raising=False)
    words = ["--size", 64, "96x64", "--scaling", "original,0.5,sqrt_log", "--seed", 7, "--steps", 1, "--train-size", 64]
    result = run("generate", "a red car", *words, "--out", tmp_path / "images")
    assert result.exit_code == 0, result.output
    rules = ("0.5", "original", "sqrt_log")
    paths = [tmp_path / "images" / f"{size}_{rule}_seed7.png" for size in ("64x64", "96x64") for rule in rules]
    assert sorted((tmp_path / "images").iterdir()) == paths
    half, plain, same, *_, high, sharper = (np.asarray(Image.open(path)) for path in paths)
    generator = torch.Generator().manual_seed(7)
    alone = pipe("a red car", height=96, width=64, generator=generator, num_inference_steps=1).images[0]
    np.testing.assert_array_equal(high, np.asarray(alone))
    np.testing.assert_array_equal(same, plain, "the training size")
    assert (half != plain).any() and (sharper != high).any()
    refused(run("generate", "a red car", "--size", 33, "--out", tmp_path / "new"), "33x33", "32x32")
    assert not (tmp_path / "new").exists()


def test_generate_checks_its_files_before_the_model_is_loaded(calls: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "64x64_original_seed0.png").write_text("before")
    refused(run("generate", "a cat", "--size", 32, 64, "--out", tmp_path), "exists already")
    assert calls == {}


REFUSED = [
    ("measure --prompts none.txt", "none.txt"),
    ("measure --prompts empty.txt", "prompts"),
    ("measure --scaling sqrt_lg", "scaling"),
    ("measure --scaling original,-1", "scaling"),
    ("measure --scaling nan", "scaling"),
    ("measure --train-size x", "sizes must be whole numbers of pixels"),
    ("measure --train-size 64,32", "train-size must be one size"),
    ("measure --statistics wisdom", "statistics"),
    ("measure --keep wisdom", "keep"),
    ("calibrate --kinds wisdom", "kinds must be some of"),
    ("calibrate --sizes x", "sizes must be whole numbers"),
    ("evaluate --scaling resise", "Baselines are"),
    ("evaluate --metrics wisdom", "metrics must be some of"),
]


MISSING = [
    ("measure --engine ray", "pass --out, a folder"),
    ("measure --words red", "pass --maps, the name of a file"),
    ("evaluate --engine ray", "pass --pictures, a folder"),
    ("evaluate --address auto", "pass --engine ray."),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_words_are_checked_before_the_model_is_loaded(
    words: str, message: str, calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_bytes(b"\n  \n")
    Path("there.nc").touch()
    refused(run(*words.split(), "--sizes", 64, "--out", "a.nc"), message)
    command = words.split()[0]
    refused(run(command, "--sizes", 64, "--out", "there.nc"), "there.nc", "exists already", "--overwrite")
    refused(run(command, "--sizes", 64, "--out", "none/a.nc"), "none")
    refused(run(command, "--sizes", 64, "--out", tmp_path), "folder")
    for option, value in (("--samples", 0), ("--steps", -1), ("--batch-size", 0), ("--seed", "x")):
        result = run(command, "--sizes", 64, "--out", "a.nc", option, value)
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert option in result.stderr
    assert calls == {}


@pytest.mark.parametrize(("words", "message"), MISSING)
def test_what_is_missing_is_named_as_an_option(tmp_path: Path, words: str, message: str) -> None:
    refused(run(*words.split(), "--sizes", 64, "--out", tmp_path / "ds.nc"), message)


@pytest.mark.parametrize("error", [EntropyLabError("statistics must be known.\nGot 'wisdom'."), ValueError("a bug")])
def test_the_librarys_errors_are_one_line_and_others_are_not_hidden(
    error: Exception, monkeypatch: pytest.MonkeyPatch, calls: dict[str, Any], tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(entropylab, "measure", fail)
    result = run("measure", "--sizes", 64, "--out", tmp_path / "a.nc")
    if isinstance(error, EntropyLabError):
        refused(result, "statistics must be known. Got 'wisdom'.")
    else:
        assert result.exit_code == 1
        assert result.exception is error
