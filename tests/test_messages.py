"""Errors that no other test meets: each is one, names what was wrong, and says what came."""

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import entropylab
from entropylab import EntropyLabError
from entropylab.calibration import ByLayer
from entropylab.measuring.logits import sampled_logits
from entropylab.plot.layers import steps_table
from entropylab.quality.evaluation import new_judge
from entropylab.quality.features import features_of
from entropylab.quality.ratings import make_page
from entropylab.quality.saving import read_picture, save_pictures
from entropylab.runs.folder import read_record
from tests.datasets import synthetic


def refuses(message: str, call: Callable[[], Any]) -> None:
    """That a call raises an EntropyLabError of one line that says so, and prints nothing of Python's own."""
    with pytest.raises(EntropyLabError) as caught:
        call()
    said = str(caught.value)
    assert message in said, said
    assert "\n" not in said
    assert "Traceback" not in said


def pictures(folder: Path, *names: str, prompt: str = "a cat") -> Path:
    """A folder of pictures of one colour that carry a prompt."""
    for name in names:
        save_pictures(torch.full((1, 3, 8, 8), 90, dtype=torch.uint8), [prompt], folder, first=int(name))
    return folder


def test_layers_that_are_not_there() -> None:
    rule = ByLayer({"unet.one": np.zeros(1)}, {"unet.one": np.zeros((1, 2))})
    refuses("it has no layer 'unet.two', but 1 layer such as unet.one", lambda: rule.factor("unet.two", 64, 64))
    averaged = synthetic().mean("step", keep_attrs=True)
    refuses("ds must have a dim step, not averaged", lambda: steps_table(averaged))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": 3}, "kind must be a kind of layers, or several. Got 3"),
        ({"kind": []}, "kind must be a kind of layers, or several. Got []"),
        ({"by": 3}, "by must be None, or some of layer, head, step, branch. Got 3"),
        ({"resamples": 99}, "no longer offered, and 'clustered' takes its place. Got errors='auto', resamples=99"),
    ],
)
def test_what_a_fit_can_not_be_asked(options: dict[str, Any], message: str) -> None:
    refuses(message, lambda: entropylab.fit(synthetic(), **options))


def test_what_a_calibration_can_not_be_asked(random_pipe: Any) -> None:
    def call(**options: Any) -> Any:
        return lambda: entropylab.calibrate(random_pipe, [32], **options)

    refuses("tolerance must be a positive number [nats]. Got 'small'", call(tolerance="small"))
    refuses("iterations must be an int >= 1. Got 0", call(iterations=0))


@pytest.mark.parametrize("names", [3, None, [], [["entropy"]], {"entropy": 1}])
def test_names_that_are_none(random_pipe: Any, names: Any) -> None:
    q = torch.zeros(1, 5, 8)
    for argument, call in {
        "statistics": lambda: entropylab.row_statistics(q, q, statistics=names),
        "kinds": lambda: entropylab.rescale(random_pipe, kinds=names).__enter__(),
        "layers": lambda: sampled_logits(random_pipe, lambda: None, names),
        "metrics": lambda: entropylab.evaluate(random_pipe, [32], metrics=names),
    }.items():
        refuses(f"{argument} must be ", call)
        refuses(f"Got {names!r}.", call)


def test_what_can_not_be_simulated() -> None:
    refuses(
        "scaling must be some of 'original', 'sqrt_log', or numbers. Got None",
        lambda: entropylab.simulate_dataset((16, 64), scaling=None),  # type: ignore[arg-type]
    )
    refuses("train_tokens must be an int >= 1. Got 0", lambda: entropylab.simulate_dataset((16, 64), train_tokens=0))
    refuses("tokens must be different numbers of keys, at least one. Got 64", lambda: entropylab.simulate_dataset(64))  # type: ignore[arg-type]


def test_a_scale_that_is_no_number() -> None:
    q = torch.zeros(1, 2, 4)
    refuses("scale must be a finite number >= 0. Got '1'", lambda: entropylab.row_statistics(q, q, scale="1"))  # type: ignore[arg-type]


def test_a_pipeline_without_a_denoiser() -> None:
    pipe = types.SimpleNamespace(components={"vae": nn.Linear(2, 2)})
    refuses(
        "has no denoiser: none of its components ['vae'] is a module that takes a timestep",
        lambda: entropylab.layers(pipe),
    )


def test_pictures_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    refuses(
        "bad.png can't be read as a picture: cannot identify image file", lambda: read_picture(tmp_path / "bad.png")
    )


def test_pages_of_pictures_that_can_not_be_made(tmp_path: Path) -> None:
    folders = [pictures(tmp_path / rule, "0000", "0001") for rule in ("original", "sqrt_log")]
    out = tmp_path / "page.html"
    refuses("there is no folder", lambda: make_page(folders, tmp_path / "none" / "page.html"))
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    refuses("prompts must be a text file in UTF-8", lambda: make_page(folders, out, prompts=tmp_path / "latin.txt"))
    (folders[1] / "0000.png").write_bytes(b"no picture")
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    refuses("pictures must be readable as pictures", lambda: make_page(folders, out, prompts=tmp_path / "prompts.txt"))
    for folder in folders:
        Image.new("RGB", (8, 8)).save(folder / "0000.png")
    refuses("picture '0000' carries no prompt", lambda: make_page(folders, out))
    assert not out.exists()


def test_what_judges_and_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")

    def absent(**_: Any) -> None:
        raise ModuleNotFoundError("no torch-fidelity")

    monkeypatch.setattr(fid, "FrechetInceptionDistance", absent)
    refuses("features 'inception' need the package torch-fidelity", lambda: features_of("inception", False))
    monkeypatch.setattr("entropylab.quality.evaluation.find_spec", lambda name: None)
    device = torch.device("cpu")
    refuses("metric 'fid' needs torchmetrics", lambda: new_judge(("fid",), True, None, None, None, device))


def test_a_report_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "report_figures").write_text("a file of that name")
    call = lambda: entropylab.report(synthetic(), tmp_path / "report.html", overwrite=True)  # noqa: E731
    refuses("must be a folder of a report's figures, to be replaced", call)
    assert not (tmp_path / "report.html").exists()


def test_a_run_of_another_format(tmp_path: Path) -> None:
    record = {"format": 1, "configuration": {}, "digest": "", "attributes": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    refuses("holds a run of format 1; this is for format 2", lambda: read_record(tmp_path))
    (tmp_path / "run.json").write_text("{")
    refuses("run.json can't be read: it is not what entropylab wrote", lambda: read_record(tmp_path))
