"""The ratings page, in a browser where there is one, and the analysis of what it saves."""

import base64
import io
import json
import re
import shutil
import subprocess
import zlib

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

PROMPTS = ["a red car", 'a <b>bold</b> & "odd" </script> prompt', "a blue house"]
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture
def folders(tmp_path):
    for place, name in enumerate(("original", "sqrt_log")):
        images = torch.randint(
            0, 256, (3, 3, 16, 24), generator=torch.Generator().manual_seed(place), dtype=torch.uint8
        )
        save_pictures(images, PROMPTS, tmp_path / name)
    return [tmp_path / "original", tmp_path / "sqrt_log"]


@pytest.fixture
def page(folders, tmp_path):
    return make_page(folders, tmp_path / "page.html")


def data_of(page):
    return json.loads(re.search(r"const data = (.*);\n", page.read_text(encoding="utf-8"))[1])


def test_the_page_stands_alone_and_says_no_method(page):
    text = page.read_text(encoding="utf-8")
    assert "original" not in text and "sqrt_log" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "http" not in text
    data = data_of(page)
    assert sorted(pair["prompt"] for pair in data["pairs"]) == sorted(PROMPTS)
    assert all(url.startswith("data:image/png;base64,") for pair in data["pairs"] for url in pair["pictures"])


def test_the_key_names_the_method_of_every_picture(page, folders):
    data = data_of(page)
    for pair, key in zip(data["pairs"], json.loads(base64.b64decode(data["key"])), strict=True):
        assert pair["prompt"] == key["prompt"]
        for url, method in zip(pair["pictures"], key["methods"], strict=True):
            shown = io.BytesIO(base64.b64decode(url.split(",")[1]))
            assert pixels(shown) == pixels(folders[0].parent / method / f"{key['name']}.png")


def test_pairs_and_their_order_are_chosen_by_the_seed(folders, tmp_path):
    pages = [make_page(folders, tmp_path / f"{seed}.html", pairs=2, seed=seed) for seed in range(6)]
    again = make_page(folders, tmp_path / "again.html", pairs=2, seed=1)
    assert again.read_bytes() == pages[1].read_bytes() != pages[2].read_bytes()
    assert len(data_of(again)["pairs"]) == 2
    keys = [key for page in pages for key in json.loads(base64.b64decode(data_of(page)["key"]))]
    assert {tuple(key["methods"]) for key in keys} == {("original", "sqrt_log"), ("sqrt_log", "original")}


def pixels(file):
    return Image.open(file).convert("RGB").tobytes()


PRESS = """const press = (key) =>
    document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
  const part = (name) => document.getElementById(name);"""

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
def drive(page, tmp_path):
    """Open the page in a browser, run a script in it, and give what the script reports."""
    driven = tmp_path / "driven.html"

    def run(script):
        text = """<script>window.addEventListener("load", () => setTimeout(() => {
  const report = (found) => {
    const place = document.createElement("pre");
    place.id = "report";
    place.textContent = btoa(JSON.stringify(found));
    document.body.append(place);
  };"""
        text += PRESS + script + "}, 50));</script></body>"
        driven.write_text(page.read_text(encoding="utf-8").replace("</body>", text), encoding="utf-8")
        found = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=3000", "--dump-dom", driven.as_uri()],
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip
        return json.loads(base64.b64decode(re.search(r'<pre id="report">([^<]*)</pre>', found)[1]))

    return run


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_in_a_browser(drive, tmp_path):
    report = drive(RATE)
    assert report["blocked"] and report["stayed"] == "1 of 3"
    assert report["bar"] == 1
    assert re.fullmatch(r"ratings-[0-9a-f]{12}-\w+\.json", report["saved"])
    saved = tmp_path / "ratings.json"
    saved.write_text(report["text"], encoding="utf-8")
    ratings = json.loads(report["text"])["ratings"]
    sides = [(one["scores"][one["left"]], one["scores"][1 - one["left"]]) for one in ratings]
    assert sides == [(9, 10), (2, 5), (1, 1)]
    assert analyse([saved]).scores.score.sum() == 28


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_whoever_comes_back_goes_on_and_somebody_else_begins_anew(drive):
    keep = 'part("begin").click(); press("3"); press("4"); press("Enter"); report({});'
    first = drive(keep)
    assert first == {}
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


def test_the_methods_are_those_of_the_key(tmp_path):
    scores = [(3, 8), (2, 9), (4, 7)]
    for name, methods in (("a.json", ("original", "sqrt_log")), ("b.json", ("sqrt_log", "original"))):
        found = analyse([write(tmp_path / name, scores, methods=methods)]).methods.set_index("method")["mean"]
        assert (found[methods[0]], found[methods[1]]) == (3, 8)
    equal = analyse([write(tmp_path / "c.json", [(5, 5)] * 4)])
    assert equal.tests.p[0] == 1 and np.isnan(equal.agreement)


def in_key(**changes):
    entry = {"prompt": "p", "methods": ["a", "b"], "name": "0000"} | changes
    return {"key": base64.b64encode(json.dumps([entry]).encode()).decode()}


DEEP = "[" * 100_000
BAD = {
    "torn.json": "{",
    "binary.json": b"\xff\xfe\x00",
    "deep.json": DEEP,
    "none.json": {"ratings": []},
    "pair.json": {"ratings": [{"pair": 7, "scores": [1, 2]}]},
    "score.json": {"ratings": [{"pair": 0, "scores": [1, 11]}]},
    "key.json": {"key": "!!"},
    "dict key.json": {"key": base64.b64encode(b'{"a": 1}').decode()},
    "methods.json": in_key(methods=[{}, []]),
    "name.json": in_key(name={"a": 1}),
    "half.json": in_key(methods=["\ud800", "b"]),
    "missing.json": None,
    "x" * 300: None,
    "a\0b": None,
    "folder": ...,
}


def test_bad_files_are_named_and_left_out(tmp_path):
    files = [write(tmp_path / "good.json", [(3, 8), (2, 9)])]
    for name, content in BAD.items():
        path = tmp_path / name
        if content is ...:
            path.mkdir()
        elif isinstance(content, dict):
            write(path, [(1, 2)], **content)
        elif content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        files.append(path)
    found = analyse(files)
    assert set(found.bad) == {str(path) for path in files[1:]}
    assert all(len(reason) <= 200 and str(path) in found.summary() for path, reason in found.bad.items())
    assert len(found.scores) == 4
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


def test_what_the_page_refuses(folders, tmp_path, page, capsys):
    (tmp_path / "empty").mkdir()
    other, bomb = tmp_path / "other", tmp_path / "bomb"
    for folder in (other, bomb):
        save_pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["p"], folder)
    (other / "0000.png").rename(other / "elsewhere.png")
    content = bytearray((bomb / "0000.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (bomb / "0000.png").write_bytes(content)
    lines = tmp_path / "prompts.txt"
    lines.write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    one = folders[0]
    cases = [
        ([one], {}, "two or more folders of different names"),
        ([one, tmp_path / "empty"], {}, "have none in common"),
        ([one, other], {}, "have none in common"),
        ([bomb, one], {}, "must be readable as pictures"),
        (folders, {"prompts": lines}, "a line for each of 3 pictures.*has 2"),
        (folders, {"prompts": tmp_path / "latin.txt"}, "prompts must be a text file in UTF-8"),
        (folders, {"pairs": 0}, "pairs must be an int"),
        (folders, {"out": page}, "exists already"),
    ]
    for pictures, options, message in cases:
        with pytest.raises(EntropyLabError, match=message):
            make_page(pictures, **{"out": tmp_path / "new.html", **options})
    (one / "0001.png").write_bytes(b"no picture")
    with pytest.raises(EntropyLabError, match="must be readable as pictures"):
        make_page(folders, tmp_path / "new.html")
    for folder in folders:
        Image.new("RGB", (8, 8)).save(folder / "0001.png")
    with pytest.raises(EntropyLabError, match="picture '0001' carries no prompt"):
        make_page(folders, tmp_path / "new.html")
    assert not (tmp_path / "new.html").exists()
    with pytest.raises(SystemExit):
        ratings.command([str(one), "--out", str(tmp_path / "new")])
    assert "pictures must be two or more" in capsys.readouterr().err


COMMENT = "a <!--<script> that never ends </script> --> \u2028 {{count}} &amp;"


def test_no_prompt_opens_a_comment_or_a_script_in_the_page(tmp_path):
    for name in ("one", "other"):
        save_pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [COMMENT], tmp_path / name)
    ratings.command([str(tmp_path / "one"), str(tmp_path / "other"), "--out", str(tmp_path)])
    text = (tmp_path / "ratings.html").read_text(encoding="utf-8")
    script = text[text.index("const data = ") : text.index("\nconst element")]
    assert "<" not in script
    assert data_of(tmp_path / "ratings.html")["pairs"][0]["prompt"] == COMMENT
    assert text.count("<script>") == text.count("</script>") == 1


def test_names_of_methods_do_not_steer_the_terminal(tmp_path):
    for name in ("\x1b[2J\x1b]0;title\x07", "b\u202e"):
        with pytest.raises(EntropyLabError, match="is no name") as caught:
            analyse([write(tmp_path / "a.json", [(3, 8), (2, 9)], methods=("original", name))])
        assert str(caught.value).isprintable()
