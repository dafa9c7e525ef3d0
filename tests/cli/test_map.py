"""``entropylab map``: the figure of a picture and where attention looks widely in it."""

from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

import entropylab

from ..command_line import refused, run
from ..conftest import new_random_pipeline


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (["--scaling", "original,0.5", "--layers", "self", "--nats"], "attention entropy [nats]"),
        (["--words", "Red,car"], "weight on the word [fraction]"),
        (["--received", "--scaling", "original,0.5"], "received attention x N, 1 is uniform"),
    ],
)
def test_a_figure_is_drawn(words: list[str], label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, path, **options: drawn.append((self, path)))
    monkeypatch.setattr(entropylab, "load", lambda model, **options: new_random_pipeline(), raising=False)
    asked = ["--size", "64", "64x96", "--prompt", "a red car", "--steps", "1", "--quiet", "--train-size", "64"]
    result = run("map", *asked, *words, "--out", tmp_path / "map.pdf")
    assert result.exit_code == 0, result.output
    ((figure, path),) = drawn
    assert path == tmp_path / "map.pdf"
    shapes = [image.get_array().shape for image in figure.axes[0].images]
    assert shapes == [(64, 64), (16, 16)] * 2 + [(64, 96), (16, 24)] * 2
    one, other = (figure.axes[0].images[place].get_array() for place in (1, 3))
    assert np.abs(one - other).max() > (0.1 if "--nats" in words else 1e-3), "another rule or word, another map"
    assert figure.axes[1].get_ylabel() == label


def test_what_can_not_be_drawn_is_refused_before_the_model_is_loaded(tmp_path: Path, calls: dict) -> None:
    words = ["--size", 64, "--prompt", "a red car", "--out"]
    refused(run("map", *words, tmp_path / "map.doc"), ".png, .pdf or .svg")
    refused(run("map", *words, tmp_path / "map.png", "--words", "hat"), "its words are a, red, car")
    refused(run("map", *words, tmp_path / "map.png", "--words", "red", "--received"), "leave --received out.")
    two = ["--words", "red", "--scaling", "original,0.5"]
    refused(run("map", *words, tmp_path / "map.png", *two), "leave all rules but one out.")
    (tmp_path / "map.png").touch()
    refused(run("map", *words, tmp_path / "map.png"), "exists already")
    assert "load" not in calls
