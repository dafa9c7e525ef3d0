"""The ratings page, in a browser where there is one, and the analysis of what it saves."""

import base64
import io
import json
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import wilcoxon

import ratings
import table3
from entropylab import EntropyLabError
from entropylab.quality.saving import save_pictures
from ratings import make_page
from table3 import analyse, krippendorff

from .rated import write

PROMPTS = ["a red car", "a <!--<script> without end </script> --> \u2028 {{count}} &amp;", 'a <b>bold</b> "odd" one']
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture
def folders(tmp_path):
    for place, name in enumerate(("original", "sqrt_log")):
        torch.manual_seed(place)
        save_pictures(torch.randint(256, (3, 3, 16, 24), dtype=torch.uint8), PROMPTS, tmp_path / name)
    return [tmp_path / "original", tmp_path / "sqrt_log"]


@pytest.fixture
def page(folders, tmp_path, monkeypatch):
    """The page, as the script makes it, from wherever it is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ratings.py", *map(str, folders), "--out", "out"])
    runpy.run_path(ratings.__file__, run_name="__main__")
    return tmp_path / "out" / "ratings.html"


def data_of(page):
    return json.loads(re.search(r"const data = (.*);\n", page.read_text(encoding="utf-8"))[1])


def key_of(page):
    return json.loads(base64.b64decode(data_of(page)["key"]))


def pixels(file):
    return Image.open(file).convert("RGB").tobytes()


def test_the_page_stands_alone_says_no_method_and_has_a_key(page, folders, tmp_path):
    text, data = page.read_text(encoding="utf-8"), data_of(page)
    assert "original" not in text and "sqrt_log" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "http" not in text
    assert sorted(pair["prompt"] for pair in data["pairs"]) == sorted(PROMPTS)
    script = text[text.index("const data = ") : text.index("\nconst element")]
    assert "<" not in script and text.count("<script>") == text.count("</script>") == 1
    for pair, key in zip(data["pairs"], key_of(page), strict=True):
        assert pair["prompt"] == key["prompt"]
        for url, method in zip(pair["pictures"], key["methods"], strict=True):
            head, _, content = url.partition(",")
            assert head == "data:image/png;base64"
            assert pixels(io.BytesIO(base64.b64decode(content))) == pixels(tmp_path / method / f"{key['name']}.png")


def test_pairs_and_their_order_are_chosen_by_the_seed(folders, tmp_path):
    pages = [tmp_path / f"{seed}.html" for seed in range(6)]
    for seed, page in enumerate(pages):
        make_page(folders, page, pairs=2, seed=seed)
    make_page(folders, tmp_path / "again.html", pairs=2, seed=1)
    assert (tmp_path / "again.html").read_bytes() == pages[1].read_bytes() != pages[2].read_bytes()
    assert all(len(key_of(page)) == 2 for page in pages)
    methods = {tuple(key["methods"]) for page in pages for key in key_of(page)}
    assert methods == {("original", "sqrt_log"), ("sqrt_log", "original")}


SCRIPT = """<script>window.addEventListener("load", () => setTimeout(() => {
  const report = (found) => {
    const place = document.createElement("pre");
    place.id = "report";
    place.textContent = btoa(JSON.stringify(found));
    document.body.append(place);
  };
  const press = (key) =>
    document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
  const part = (name) => document.getElementById(name);
  %s}, 50));</script></body>"""

RATE = """
  part("begin").click();
  const blocked = part("next").disabled;
  press("Enter");
  const stayed = part("count").textContent;
  press("3"); press("0"); press("Enter");
  press("Backspace"); press("ArrowLeft"); press("9"); press("Enter");
  document.querySelectorAll("figure")[1].querySelectorAll("button")[4].click(); press("2"); press("Enter");
  press("1"); press("1");
  const bar = part("bar").value;
  press("Enter");
  let saved = null;
  HTMLAnchorElement.prototype.click = function () { saved = this.download; };
  part("save").click();
  report({blocked, stayed, bar, saved, text: part("text").value});"""

RETURN = """
  const offered = [part("begin").textContent, part("anew").hidden];
  part("begin").click();
  const there = part("count").textContent;
  part("anew").click();
  report({offered, there, afresh: part("count").textContent, bar: part("bar").value});"""


@pytest.fixture
def drive(folders, tmp_path):
    """Open the page in a browser, run a script in it, and give what the script reports."""
    page, driven = tmp_path / "page.html", tmp_path / "driven.html"
    make_page(folders, page)

    def run(script):
        driven.write_text(page.read_text(encoding="utf-8").replace("</body>", SCRIPT % script), encoding="utf-8")
        found = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=3000", "--dump-dom", driven.as_uri()],
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip
        return json.loads(base64.b64decode(re.search(r'<pre id="report">([^<]*)</pre>', found)[1]))

    return run


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_in_a_browser(drive, tmp_path):
    """Rated whole; then begun, taken up again, and begun anew by somebody else."""
    report = drive(RATE)
    assert report["blocked"] and report["stayed"] == "1 of 3"
    assert report["bar"] == 1
    assert re.fullmatch(r"ratings-[0-9a-f]{12}-\w+\.json", report["saved"])
    saved = tmp_path / "ratings.json"
    saved.write_text(report["text"], encoding="utf-8")
    rated = json.loads(report["text"])["ratings"]
    sides = [(one["scores"][one["left"]], one["scores"][1 - one["left"]]) for one in rated]
    assert sides == [(9, 10), (2, 5), (1, 1)]
    assert analyse([saved]).scores.score.sum() == 28
    shutil.rmtree(tmp_path / "profile")
    assert drive('part("begin").click(); press("3"); press("4"); press("Enter"); report({});') == {}
    report = drive(RETURN)
    assert report["offered"] == ["Go on where you stopped", False]
    assert report["there"] == "2 of 3"
    assert report["afresh"] == "1 of 3" and report["bar"] == 0


def test_means_intervals_and_test(tmp_path):
    rng = np.random.default_rng(0)
    tables = [np.stack([rng.integers(2, 7, 20), rng.integers(4, 10, 20)], 1) for _ in range(4)]
    files = [write(tmp_path / f"{i}.json", table.tolist(), f"rater {i}") for i, table in enumerate(tables)]
    found = analyse(files)
    means = found.methods.set_index("method")
    stacked = np.stack(tables)
    assert list(means["mean"]) == pytest.approx(list(stacked.mean((0, 1))))
    by_rater = stacked[..., 0].mean(1)
    reach = 3.18245 * by_rater.std(ddof=1) / 2
    assert means.loc["original", "high"] == pytest.approx(by_rater.mean() + reach, rel=1e-4)
    change = stacked.mean(0)[:, 1] - stacked.mean(0)[:, 0]
    assert found.tests.p[0] == pytest.approx(wilcoxon(change).pvalue)
    assert found.tests["mean"][0] == pytest.approx(change.mean())
    assert "| original |" in found.summary() and "Wilcoxon" in found.summary()
    other_way = [write(tmp_path / "b.json", [(3, 8), (2, 9), (4, 7)], methods=("sqrt_log", "original"))]
    assert analyse(other_way).methods["mean"].tolist() == [8, 3], "the methods are those of the key"
    equal = analyse([write(tmp_path / "c.json", [(5, 5)] * 4)])
    assert equal.tests.p[0] == 1 and np.isnan(equal.agreement)


def in_key(**changes):
    entry = {"prompt": "p", "methods": ["a", "b"], "name": "0000"} | changes
    return {"key": base64.b64encode(json.dumps([entry]).encode()).decode()}


BAD = {
    "torn.json": b"{",
    "deep.json": b"[" * 100_000,
    "pair.json": {"ratings": [{"pair": 7, "scores": [1, 2]}]},
    "score.json": {"ratings": [{"pair": 0, "scores": [1, 11]}]},
    "key.json": {"key": "!!"},
    "methods.json": in_key(methods=[{}, []]),
    "half.json": in_key(methods=["\ud800", "b"]),
    "terminal.json": in_key(methods=["\x1b[2J\x1b]0;title\x07", "b\u202e"]),
    "missing.json": None,
    "x" * 300: None,
    "a\0b": None,
}


def test_bad_files_are_named_and_left_out(tmp_path):
    files = [write(tmp_path / "good.json", [(3, 8), (2, 9)]), tmp_path]
    for name, content in BAD.items():
        if isinstance(content, dict):
            write(tmp_path / name, [(1, 2)], **content)
        elif content is not None:
            (tmp_path / name).write_bytes(content)
        files.append(tmp_path / name)
    found = analyse(files)
    assert set(found.bad) == {str(path) for path in files[1:]}
    assert all(len(reason) <= 200 and reason.isprintable() for reason in found.bad.values())
    assert all(str(path) in found.summary() for path in files[1:]) and len(found.scores) == 4
    table3.draw([path for path in files if "\0" not in str(path)], tmp_path)
    assert list(pd.read_csv(tmp_path / "table3.csv").method) == ["original", "sqrt_log"]
    with pytest.raises(EntropyLabError, match=r"None can be used: .*torn\.json"):
        analyse(files[1:])


def test_krippendorffs_own_example():
    """Four observers, twelve units, missing data: alpha for interval data is 0.849 (Krippendorff 2011, section E)."""
    n = np.nan
    data = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
            [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
        ]
    )
    assert krippendorff(data) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff(np.array([[1.0, 5, 9], [1, 5, 9]])) == 1
    assert krippendorff(np.array([[1.0, 9], [9, 1]])) < 0
    assert np.isnan(krippendorff(data[:1]))


def test_what_the_page_refuses(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    other, bad, mute = (tmp_path / name for name in ("other", "bad", "mute"))
    for folder in (other, bad, mute):
        save_pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["p"], folder)
    (other / "0000.png").rename(other / "elsewhere.png")
    (bad / "0000.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(mute / "0000.png")
    one, moved = folders[0], tmp_path / "moved"
    shutil.copytree(folders[1], moved)
    (moved / "0000.png").replace(moved / "0001.png")
    for pictures, options, message in (
        ([one], {}, "two or more folders of different names"),
        ([one, tmp_path / "empty"], {}, "have none in common"),
        ([one, other], {}, "have none in common"),
        ([bad, one], {}, "can't be read as a picture"),
        ([mute, one], {}, "pictures must carry their prompts.* Got .*None"),
        ([one, moved], {}, "two of a name the same. Got 'a .*'"),
        (folders, {"pairs": 0}, "pairs must be an int"),
    ):
        with pytest.raises(EntropyLabError, match=message):
            make_page(pictures, tmp_path / "new.html", **options)
    assert not (tmp_path / "new.html").exists()
