"""The ratings page, in a browser where there is one, and the analysis of what it saves."""

import base64
import json
import re
import shutil
import subprocess
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import wilcoxon

from entropylab import EntropyLabError
from entropylab.quality.ratings import analyse, krippendorff, make_page
from entropylab.quality.saving import save_pictures

from ..command_line import refused, run
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
            assert pixels(url) == file_pixels(folders[0].parent / method / f"{key['name']}.png")


def test_either_method_may_come_first(folders, tmp_path):
    pages = [make_page(folders, tmp_path / f"{seed}.html", seed=seed) for seed in range(6)]
    keys = [key for page in pages for key in json.loads(base64.b64decode(data_of(page)["key"]))]
    assert {tuple(key["methods"]) for key in keys} == {("original", "sqrt_log"), ("sqrt_log", "original")}


def pixels(url):
    import io

    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).tobytes()


def file_pixels(path):
    from PIL import Image

    return Image.open(path).convert("RGB").tobytes()


def test_pairs_are_chosen_by_the_seed(folders, tmp_path):
    one, again, other = (
        data_of(make_page(folders, tmp_path / f"{i}.html", pairs=2, seed=seed)) for i, seed in enumerate((1, 1, 2))
    )
    assert len(one["pairs"]) == 2
    assert one["page"] == again["page"] != other["page"]


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


def test_swapped_methods_swap_the_result(tmp_path):
    scores = [(3, 8), (2, 9), (4, 7)]
    one = analyse([write(tmp_path / "a.json", scores)]).methods.set_index("method")["mean"]
    other = analyse([write(tmp_path / "b.json", scores, methods=("sqrt_log", "original"))]).methods.set_index("method")[
        "mean"
    ]
    assert one["sqrt_log"] == other["original"] == 8
    assert one["original"] == other["sqrt_log"] == 3


def test_equal_ratings_have_no_p_below_one(tmp_path):
    found = analyse([write(tmp_path / "a.json", [(5, 5)] * 4)])
    assert found.tests.p[0] == 1
    assert np.isnan(found.agreement)


BAD = {
    "torn.json": "{",
    "other.json": '{"format": "something"}',
    "list.json": "[]",
    "binary.json": b"\xff\xfe\x00",
    "none.json": {"ratings": []},
    "pair.json": {"ratings": [{"pair": 7, "scores": [1, 2]}]},
    "score.json": {"ratings": [{"pair": 0, "scores": [1, 11]}]},
    "null.json": {"ratings": [{"pair": 0, "scores": [1, None]}]},
    "key.json": {"key": "!!"},
    "keys.json": {"key": base64.b64encode(b"[1]").decode()},
}


def test_bad_files_are_named_and_left_out(tmp_path):
    good = write(tmp_path / "good.json", [(3, 8), (2, 9)])
    files = [good, tmp_path / "missing.json"]
    for name, content in BAD.items():
        path = tmp_path / name
        if isinstance(content, dict):
            write(path, [(1, 2)], **content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        files.append(path)
    found = analyse(files)
    assert set(found.bad) == {str(path) for path in files[1:]}
    assert len(found.scores) == 4
    assert all(str(path) in found.summary() for path in files[1:])
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


def test_what_the_page_refuses(folders, tmp_path, page):
    lost = tmp_path / "empty"
    lost.mkdir()
    other = tmp_path / "other"
    save_pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["p"], other)
    (other / "0000.png").rename(other / "elsewhere.png")
    lines = tmp_path / "prompts.txt"
    lines.write_text("one\ntwo\n", encoding="utf-8")
    cases = [
        ((folders[:1],), {}, "two or more folders of different names"),
        (([folders[0], lost],), {}, "empty has none"),
        (([folders[0], tmp_path / "no"],), {}, "no is none"),
        (([folders[0], other],), {}, "have none in common"),
        ((folders,), {"prompts": lines}, "a line for each of 3 pictures.*has 2"),
        ((folders,), {"pairs": 0}, "pairs must be an int"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(EntropyLabError, match=message):
            make_page(*arguments, tmp_path / "new.html", **options)
    with pytest.raises(EntropyLabError, match="exists already"):
        make_page(folders, page)
    (folders[0] / "0001.png").write_bytes(b"no picture")
    with pytest.raises(EntropyLabError, match="must be readable as pictures"):
        make_page(folders, tmp_path / "new.html")


def test_the_commands(folders, tmp_path):
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    made = run("ratings", "make", *folders, "--out", page)
    assert made.exit_code == 0 and page.exists()
    file = write(tmp_path / "a.json", [(3, 8), (2, 9)])
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    found = run("ratings", "analyse", file, bad, "--out", table)
    assert found.exit_code == 0
    assert "left out: " in found.stdout and "bad.json" in found.stdout
    assert list(pd.read_csv(table).method) == ["original", "sqrt_log"]
    refused(run("ratings", "analyse", bad), "error: files must be")


COMMENT = "a <!--<script> that never ends </script> --> \u2028 {{count}} &amp;"


@pytest.fixture
def commented(tmp_path):
    """A page whose prompts hold what opens a comment and a script."""
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        save_pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [COMMENT], folder)
    return make_page(folders, tmp_path / "commented.html")


def test_no_prompt_opens_a_comment_or_a_script_in_the_page(commented):
    text = commented.read_text(encoding="utf-8")
    script = text[text.index("const data = ") : text.index("\nconst element")]
    assert "<" not in script
    assert data_of(commented)["pairs"][0]["prompt"] == COMMENT
    assert text.count("<script>") == text.count("</script>") == 1


def in_key(**changes):
    entry = {"prompt": "p", "methods": ["a", "b"], "name": "0000"} | changes
    return {"key": base64.b64encode(json.dumps([entry]).encode()).decode()}


DEEP = "[" * 100_000
CRAFTED = {
    "deep.json": DEEP,
    "long number.json": "1" * 10_000,
    "deep key.json": {"key": base64.b64encode(DEEP.encode()).decode()},
    "methods.json": in_key(methods=[{}, []]),
    "three.json": in_key(methods=["a", "b", "c"]),
    "text.json": in_key(methods="ab"),
    "name.json": in_key(name={"a": 1}),
    "prompt.json": in_key(prompt=["p"]),
    "half.json": in_key(methods=["\ud800", "b"]),
    "dict key.json": {"key": base64.b64encode(b'{"a": 1}').decode()},
    "long.json": {"ratings": [{"pair": "x" * 10**6, "scores": [1, 2]}]},
    "x" * 300: None,
    "a\0b": None,
    "folder": ...,
}


def test_crafted_files_are_named_and_left_out(tmp_path):
    files = [write(tmp_path / "good.json", [(3, 8), (2, 9)])]
    for name, content in CRAFTED.items():
        path = tmp_path / name
        if content is ...:
            path.mkdir()
        elif isinstance(content, dict):
            write(path, [(1, 2)], **content)
        elif content is not None:
            path.write_text(content)
        files.append(path)
    found = analyse(files)
    assert set(found.bad) == {str(path) for path in files[1:]}
    assert all(len(reason) <= 200 for reason in found.bad.values())
    named = [path for path in files if "\0" not in str(path)]
    result = run("ratings", "analyse", *named, "--out", tmp_path / "table.csv")
    assert result.exit_code == 0, result.output
    with pytest.raises(EntropyLabError, match="files must be a list"):
        analyse(str(files[0]))


def test_what_else_the_page_refuses(folders, tmp_path):
    bomb = tmp_path / "bomb"
    save_pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["p"], bomb)
    content = bytearray((bomb / "0000.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (bomb / "0000.png").write_bytes(content)
    cases = [
        ([bomb, folders[0]], {}, "must be readable as pictures"),
        (["x" * 300, folders[0]], {}, "pictures must be folders"),
        (["a\0b", folders[0]], {}, "pictures must be a name without NUL"),
        (folders, {"prompts": "a\0b"}, "prompts must be a name without NUL"),
        (folders, {"prompts": "x" * 300}, "prompts must be a text file"),
        (folders, {"seed": -1}, "seed must be an int"),
        (folders, {"out": "a\0b"}, "path must be a name without NUL"),
        (folders, {"out": tmp_path / ("x" * 300)}, "can't be written"),
        (folders, {"out": tmp_path / "no" / "page.html"}, "no folder"),
    ]
    for pictures, options, message in cases:
        with pytest.raises(EntropyLabError, match=message):
            make_page(pictures, **{"out": tmp_path / "new.html", **options})
    assert not (tmp_path / "new.html").exists()


def test_names_of_methods_do_not_steer_the_terminal(tmp_path):
    write(tmp_path / "a.json", [(3, 8), (2, 9)], methods=("\x1b[2J\x1b]0;title\x07", "b\u202e"))
    found = run("ratings", "analyse", tmp_path / "a.json")
    assert found.exit_code == 0
    assert not set("\x1b\x07\u202e") & set(found.output)
    assert r"\x1b[2J" in found.output
