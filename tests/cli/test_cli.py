"""The command line: what it hands to the library, what it says, and what it checks before any model is loaded."""

import subprocess
import sys
import types
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from typer.testing import CliRunner, Result

import entropylab
from entropylab.cli import app
from entropylab.cli.words import repeat_sizes
from entropylab.dataset import ATTRIBUTE
from entropylab.errors import EntropyLabError
from entropylab.sizes import parse_sizes


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, *words: str) -> None:
    """The command ended with one line that says what is wrong, and nothing else."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


class Image:
    def __init__(self, text: str) -> None:
        self.text = text

    def save(self, path: Path) -> None:
        Path(path).write_text(self.text)


class Pipe:
    """Stands for a pipeline: an "image" is the text of the call that made it."""

    vae_scale_factor = 4
    rule: object = "original"

    def __call__(self, *, generator: Any, **arguments: Any) -> Any:
        call = {"rule": self.rule, "seed": generator.initial_seed(), **arguments}
        return types.SimpleNamespace(images=[Image(repr(call))])

    def set_progress_bar_config(self, **arguments: Any) -> None:
        self.bar = arguments


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The library's functions, replaced by ones that write down what they were called with."""
    made: dict[str, Any] = {}

    def load(model: str | None = None, **arguments: Any) -> Pipe:
        made["load"] = {"model": model, **arguments}
        return Pipe()

    def measure(pipe: Pipe, sizes: list[Any], **arguments: Any) -> xr.Dataset:
        made["measure"] = {"sizes": sizes, **arguments}
        return xr.Dataset(attrs={ATTRIBUTE: "0"})

    def save(ds: xr.Dataset, path: Path, overwrite: bool = False) -> None:
        made["save"] = {"path": path, "overwrite": overwrite}

    def layers(pipe: Pipe) -> list[Any]:
        return [types.SimpleNamespace(path="unet.mid_block.attn1", kind="self", heads=8, processor="AttnProcessor2_0")]

    def fit(ds: xr.Dataset, by: str | None = None) -> Any:
        return types.SimpleNamespace(summary=lambda: f"slope 0.96 by {by} of {ds}")

    @contextmanager
    def rescale(pipe: Pipe, rule: object = "sqrt_log") -> Any:
        pipe.rule = rule
        yield
        pipe.rule = "original"

    for function in (load, measure, save, layers, fit, rescale):
        monkeypatch.setattr(entropylab, function.__name__, function, raising=False)
    monkeypatch.setattr(entropylab, "open", lambda path: f"<{path}>", raising=False)
    return made


@pytest.mark.parametrize(
    "words",
    ["--sizes 32 64 96x128", "--sizes 32 --sizes 64 --sizes 96x128", "--sizes 32,64,96x128", "--sizes=32 64,96X128"],
)
def test_sizes_can_be_given_in_every_way(words: str, calls: dict[str, Any], tmp_path: Path) -> None:
    result = run("measure", *words.split(), "--samples", 2, "--out", tmp_path / "a.nc")
    assert result.exit_code == 0, result.output
    assert calls["measure"]["sizes"] == [32, 64, (96, 128)]
    assert calls["measure"]["samples"] == 2
    assert calls["load"]["model"] is None


@pytest.mark.parametrize("words", ["org/model --sizes 32 64", "--sizes 32 64 org/model", "--sizes 32 64 -- org/model"])
def test_a_model_may_stand_before_or_after_the_sizes(words: str, calls: dict[str, Any], tmp_path: Path) -> None:
    options = ["--out", tmp_path / "a.nc"]
    assert run("measure", *options, *words.split()).exit_code == 0
    assert calls["load"]["model"] == "org/model"
    assert calls["measure"]["sizes"] == [32, 64]


def test_only_what_looks_like_a_size_is_taken_for_one() -> None:
    assert repeat_sizes(["--sizes", "3D/model", "64", "9d/x", "--seed", "3"]) == [
        *("--sizes", "3D/model", "--sizes", "64", "9d/x", "--seed", "3")
    ]
    assert repeat_sizes(["--samples", "2", "64"]) == ["--samples", "2", "64"]
    assert repeat_sizes(["--sizes", "1", "--", "2"]) == ["--sizes", "1", "--", "2"]


@pytest.mark.parametrize("size", ["64.5", "0", "-64", "96x", "x96", "96x0", "1x2x3", "abc", "", "32,,64", "1e3", "nan"])
def test_sizes_that_are_none(size: str, calls: dict[str, Any], tmp_path: Path) -> None:
    refused(run("measure", "--sizes", size, "--out", tmp_path / "a.nc"), "sizes", repr(size))
    refused(run("measure", "--sizes", 32, f"--sizes={size}", "--out", tmp_path / "a.nc"), "sizes")
    assert calls == {}


@pytest.mark.parametrize("words", ["64 64", "64 64x64", "64x96,64x96"])
def test_sizes_given_twice(words: str) -> None:
    with pytest.raises(EntropyLabError, match="more than once"):
        parse_sizes(words.split())


def test_height_and_width_are_not_swapped() -> None:
    assert parse_sizes(["96x128", "128x96"]) == [(96, 128), (128, 96)]


def test_measure_hands_every_option_on(calls: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\n  ein Bär \n", encoding="utf-8")
    words = "--sizes 64 --samples 3 --steps 5 --guidance 2.5 --seed 9 --scaling original,sqrt_log,0.9 --rows 256 "
    words += (
        "--statistics entropy,lse --statistics third --batch-size 4 --device cpu --dtype float16 --overwrite --quiet"
    )
    out = tmp_path / "a.nc"
    result = run("measure", "m", *words.split(), "--prompts", tmp_path / "prompts.txt", "--out", out)
    assert result.exit_code == 0, result.output
    assert calls["measure"] == {
        "sizes": [64],
        "prompts": ["a cat", "ein Bär"],
        "samples": 3,
        "steps": 5,
        "guidance_scale": 2.5,
        "seed": 9,
        "scaling": ("original", "sqrt_log", 0.9),
        "statistics": ("entropy", "lse", "third"),
        "rows": 256,
        "batch_size": 4,
        "progress": False,
    }
    assert calls["load"] == {"model": "m", "dtype": "float16", "device": "cpu"}
    assert calls["save"] == {"path": out, "overwrite": True}
    assert f"entropylab fit {out}" in result.stdout


def test_measure_leaves_to_the_library_what_is_not_given(calls: dict[str, Any], tmp_path: Path) -> None:
    assert run("measure", "--sizes", 64, "--out", tmp_path / "a.nc").exit_code == 0
    assert calls["load"] == {"model": None, "dtype": None, "device": None}
    assert {name for name, value in calls["measure"].items() if value is None} == {
        *("prompts", "samples", "steps", "guidance_scale", "rows")
    }
    assert calls["measure"]["scaling"] == ("original",)
    assert calls["measure"]["statistics"] == ("entropy", "sigma2")


def test_the_output_is_checked_before_the_model_is_loaded(calls: dict[str, Any], tmp_path: Path) -> None:
    there = tmp_path / "there.nc"
    there.touch()
    refused(run("measure", "--sizes", 64, "--out", there), str(there), "--overwrite")
    refused(run("measure", "--sizes", 64, "--out", tmp_path / "none" / "a.nc"), "none")
    refused(run("measure", "--sizes", 64, "--out", tmp_path), "folder")
    assert calls == {}
    assert run("measure", "--sizes", 64, "--out", there, "--overwrite").exit_code == 0
    assert "measure" in calls


@pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xff\xfe\x00bad", None])
def test_prompts_are_checked_before_the_model_is_loaded(
    content: bytes | None, calls: dict[str, Any], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    words = ("--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "a.nc")
    refused(run("measure", "--sizes", 64, *words), "prompts")
    assert calls == {}


@pytest.mark.parametrize("words", ["--samples 0", "--steps -1", "--rows 0", "--batch-size 0", "--seed x"])
def test_numbers_out_of_range_are_usage_errors(words: str, calls: dict[str, Any], tmp_path: Path) -> None:
    result = run("measure", "--sizes", 64, *words.split(), "--out", tmp_path / "a.nc")
    assert result.exit_code == 2
    assert words.split()[0] in result.stderr
    assert "Traceback" not in result.output
    assert calls == {}


@pytest.mark.parametrize(
    "words", ["--scaling sqrt_lg", "--scaling original,-1", "--scaling nan", "--statistics wisdom"]
)
def test_names_are_checked_before_the_model_is_loaded(words: str, calls: dict[str, Any], tmp_path: Path) -> None:
    refused(run("measure", "--sizes", 64, *words.split(), "--out", tmp_path / "a.nc"), words.split()[0].strip("-"))
    assert calls == {}


def test_sizes_are_needed(calls: dict[str, Any]) -> None:
    result = run("measure")
    assert result.exit_code == 2
    assert "--sizes" in result.stderr


def test_the_librarys_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, calls: dict[str, Any], tmp_path: Path
) -> None:
    def measure(*_: Any, **__: Any) -> None:
        raise EntropyLabError("statistics must be known.\nGot 'wisdom'.")

    monkeypatch.setattr(entropylab, "measure", measure)
    refused(run("measure", "--sizes", 64, "--out", tmp_path / "a.nc"), "statistics must be known. Got 'wisdom'.")


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch, calls: dict[str, Any], tmp_path: Path) -> None:
    def measure(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(entropylab, "measure", measure)
    result = run("measure", "--sizes", 64, "--out", tmp_path / "a.nc")
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError)


def test_fit_prints_the_summary(monkeypatch: pytest.MonkeyPatch, calls: dict[str, Any]) -> None:
    monkeypatch.setattr("entropylab.law.averages.check", lambda ds: ds)
    assert run("fit", "a.nc").stdout == "slope 0.96 by None of <a.nc>\n"
    assert run("fit", "a.nc", "--by", "layer").stdout == "slope 0.96 by layer of <a.nc>\n"


def test_figures_are_drawn_into_a_folder_that_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []

    def regenerate(out: Path, run: Path | None, **options: Any) -> list[Path]:
        drawn.append((out, run, options))
        return [out / "figure5.pdf", out / "figure5.csv"]

    module = types.ModuleType("entropylab.figures")
    monkeypatch.setattr(module, "regenerate", regenerate, raising=False)
    monkeypatch.setitem(sys.modules, "entropylab.figures", module)
    out = tmp_path / "deep" / "figures"
    result = run("figures", "--out", out, "--run", "a.nc")
    assert result.stdout.splitlines() == [f"wrote {out / 'figure5.pdf'}", f"wrote {out / 'figure5.csv'}"]
    assert drawn == [
        (out, Path("a.nc"), {"model": None, "samples": None, "steps": None, "tables": False, "progress": True})
    ]
    assert out.is_dir()
    assert run("figures", "m", "--out", out, "--samples", 3, "--steps", 2, "--quiet").exit_code == 0
    assert drawn[1] == (out, None, {"model": "m", "samples": 3, "steps": 2, "tables": False, "progress": False})
    (tmp_path / "file").touch()
    refused(run("figures", "--out", tmp_path / "file"), "out must be a folder")
    assert run("figures", "--out", out, "--samples", 0).exit_code == 2
    assert len(drawn) == 2


def test_layers_are_listed(calls: dict[str, Any]) -> None:
    header, line = run("layers", "org/model").stdout.splitlines()
    assert header.split() == ["path", "kind", "heads", "processor"]
    assert line.split() == ["unet.mid_block.attn1", "self", "8", "AttnProcessor2_0"]
    assert calls["load"]["model"] == "org/model"


def test_generate_writes_an_image_for_each_size_and_rule(calls: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "images"
    words = ["--size", 64, "96x128", "--scaling", "original,sqrt_log", "--seed", 7, "--steps", 4, "--out", out]
    result = run("generate", "a cat", *words)
    assert result.exit_code == 0, result.output
    names = ["64x64_original_seed7", "64x64_sqrt_log_seed7", "96x128_original_seed7", "96x128_sqrt_log_seed7"]
    assert sorted(path.stem for path in out.iterdir()) == names
    call = (out / "96x128_sqrt_log_seed7.png").read_text()
    expected = {"rule": "sqrt_log", "seed": 7, "prompt": "a cat", "height": 96, "width": 128, "num_inference_steps": 4}
    assert call == repr(expected)
    assert "'rule': 'original'" in (out / "64x64_original_seed7.png").read_text()


def test_generate_checks_its_files_before_the_model_is_loaded(calls: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "64x64_original_seed0.png").write_text("before")
    refused(run("generate", "a cat", "--size", 32, 64, "--out", tmp_path), "exists already")
    assert calls == {}
    assert run("generate", "a cat", "--size", 32, 64, "--out", tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "64x64_original_seed0.png").read_text() != "before"


def test_generate_says_which_sizes_are_near(calls: dict[str, Any], tmp_path: Path) -> None:
    refused(run("generate", "a cat", "--size", 33, "--out", tmp_path), "33x33", "32x32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("measure", ["nats", "pixels", "--sizes 32 64 96x128", "HEIGHTxWIDTH", "one prompt a line"]),
        ("fit", ["nats", "R^2", "--by layer"]),
        ("check", ["nats", "nothing fitted", "--by layer,head"]),
        ("report", ["HTML", "no network", "side by side", "--name"]),
        ("figures", ["nats", "CSV", "--run entropy.nc"]),
        ("layers", ["self", "heads", "entropylab layers"]),
        ("generate", ["pixels", "PNG", "sqrt_log", "HEIGHTxWIDTH"]),
    ],
)
def test_help_explains_with_units_and_examples(command: str, words: list[str]) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    text = " ".join(result.stdout.split())
    for word in words:
        assert word in text


def test_help_lists_every_command() -> None:
    text = run("--help").stdout
    for command in ("measure", "fit", "check", "report", "figures", "layers", "generate"):
        assert f"\n  {command} " in text
    assert run().exit_code in (0, 2)
    assert "Usage:" in run().output


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("entropylab ")


def test_help_needs_no_torch_and_runs_as_a_module() -> None:
    code = (
        "import sys, runpy; sys.argv = ['entropylab', '--help']\n"
        "try: runpy.run_module('entropylab', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'diffusers', 'xarray', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: entropylab" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"
