"""What people say: a page that asks them to rate pictures blindly, and the analysis of what they rated (Table 3).

``entropylab ratings make`` writes the page, ``entropylab ratings analyse`` reads what it saved.
"""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student
from scipy.stats import wilcoxon

from ..errors import EntropyLabError, check_int, one_line
from ..files import as_path, check_writable, write_whole
from .saving import PICTURES, prompt_of

FORMAT = "entropylab ratings 1"

PAIRS = 50
"""Pairs on a page at most; the paper's number."""

WIDEST = 512
"""Pictures smaller than this are shown at a whole multiple of their size [pixels], so that none looks blurred."""


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt by two methods."""

    prompt: str
    methods: tuple[str, str]
    files: tuple[Path, Path]


def make_page(
    pictures: Sequence[str | Path],
    out: str | Path,
    *,
    prompts: str | Path | None = None,
    pairs: int = PAIRS,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a page that asks to rate pairs of pictures from 1 to 10 for how well they show their prompt.

    The page needs no server and no network: whoever rates opens it, rates by mouse or keyboard, and saves a file, which
    `analyse` reads. Which method made which picture stands in the page in a form that nobody reads by accident; order
    of pairs and sides are shuffled anew in every browser.

    Args:
        pictures: two or more folders, one a method, named after it, with pictures of the same names in them, as
            ``evaluate(pictures=...)`` writes them.
        out: the file to write.
        prompts: a text file with a prompt a line, in the order of names; None where the PNGs carry theirs.
        pairs: how many pairs at most; a random choice of all.
        seed: of the choice.
        overwrite: replace a page that is there.

    Raises:
        EntropyLabError: fewer than two folders, no name in two of them, a picture without prompt, a file in the way.

    Source: paper, Table 3 and supplement 6.2.4.
    """
    path = check_writable(out, overwrite)
    check_int("pairs", pairs)
    check_int("seed", seed, 0)
    found = found_pairs([as_path(folder, "pictures", "folder") for folder in pictures], prompts)
    rng, chosen = np.random.default_rng(seed), []
    for i in sorted(rng.permutation(len(found))[:pairs]):
        one = found[i]
        if rng.integers(2):  # whoever reads the page's text does not learn the order of the methods either
            one = Pair(one.prompt, one.methods[::-1], one.files[::-1])
        chosen.append(one)
    write_whole(path, page_of(chosen).encode())
    return Path(out)


def found_pairs(folders: Sequence[Path], prompts: str | Path | None) -> list[Pair]:
    """All pairs of pictures of the same name in two folders."""
    files = [pictures_of(folder) for folder in folders]
    names = [folder.resolve().name for folder in folders]
    if len(folders) < 2 or len(set(names)) < len(names):
        raise EntropyLabError(f"pictures must be two or more folders of different names, one a method. Got {names}.")
    texts = prompts_of(files, prompts)
    found = [
        Pair(texts[name], (names[i], names[j]), (files[i][name], files[j][name]))
        for i, j in combinations(range(len(folders)), 2)
        for name in files[i]
        if name in files[j]
    ]
    if not found:
        raise EntropyLabError(
            f"pictures must have names that are in two folders. {', '.join(names)} have none in common."
        )
    return found


def pictures_of(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by name, in the order of their names."""
    try:
        if not folder.is_dir():
            raise EntropyLabError(f"pictures must be folders. {folder} is none.")
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    except OSError as error:
        raise EntropyLabError(f"pictures must be folders that can be read. {folder}: {one_line(error)}.") from error
    if not files:
        raise EntropyLabError(f"pictures must be folders with pictures ({', '.join(PICTURES)}). {folder} has none.")
    return {path.stem: path for path in files}


def prompts_of(files: Sequence[dict[str, Path]], prompts: str | Path | None) -> dict[str, str]:
    """The prompt of every name: a line of a text file, blank ones left out, or what a picture carries."""
    names = sorted(set().union(*files))
    if prompts is not None:
        path = as_path(prompts, "prompts")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            said = one_line(error, 200)
            raise EntropyLabError(
                f"prompts must be a text file in UTF-8, one prompt a line. {path}: {said}."
            ) from error
        if len(lines) != len(names):
            raise EntropyLabError(
                f"prompts must be a line for each of {len(names)} pictures. {prompts} has {len(lines)}."
            )
        return dict(zip(names, lines, strict=True))
    found = {}
    for name in names:
        path = next(group[name] for group in files if name in group)
        try:
            text = prompt_of(path)
        except Exception as error:
            raise unreadable(path, error) from error
        if text is None:
            raise EntropyLabError(f"prompts must be a file with a prompt a line: picture {name!r} carries no prompt.")
        found[name] = text
    return found


def unreadable(path: Path, error: Exception) -> EntropyLabError:
    """The error for a file that Pillow can't read: it raises of all kinds, also for pictures far too large."""
    return EntropyLabError(f"pictures must be readable as pictures. {path}: {one_line(error, 200)}.")


def page_of(pairs: Sequence[Pair]) -> str:
    """The page's HTML."""
    shown = [{"prompt": pair.prompt, "pictures": [as_url(path) for path in pair.files]} for pair in pairs]
    key = [{"prompt": pair.prompt, "methods": pair.methods, "name": pair.files[0].stem} for pair in pairs]
    hidden = base64.b64encode(json.dumps(key).encode()).decode()
    data: dict[str, Any] = {"format": FORMAT, "page": hashlib.sha256(hidden.encode()).hexdigest()[:12]}
    text = json.dumps(data | {"key": hidden, "widest": WIDEST, "pairs": shown})
    template = resources.files(__package__).joinpath("ratings.html").read_text(encoding="utf-8")
    # "</script" ends a script and "<!--<script" keeps it from ending, whatever quotes they stand in.
    return template.replace("{{count}}", str(len(pairs))).replace("{{data}}", text.replace("<", "\\u003c"))


def as_url(path: Path) -> str:
    """A picture as a PNG within the page, without what it carries beside its pixels: there its method may be named."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
    except Exception as error:
        raise unreadable(path, error) from error
    file = io.BytesIO()
    pixels.info = {}
    pixels.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Analysis:
    """Ratings of many people.

    Attributes:
        scores: one row a rating: rater, name, prompt, pair, method, score (1 to 10).
        methods: one row a method: mean, low, high (95 %), ratings, raters.
        tests: one row a pair of methods: mean difference, low, high, p of Wilcoxon's signed-rank test, pairs.
        agreement: Krippendorff's alpha of the ratings (interval), 1 for the same, 0 for chance; NaN for one rater.
        bad: what was wrong with files that were left out, by file.
    """

    scores: pd.DataFrame
    methods: pd.DataFrame
    tests: pd.DataFrame
    agreement: float
    bad: dict[str, str]

    def summary(self) -> str:
        """The tables as Markdown."""
        lines = ["| method | mean rating | 95 % interval | ratings | raters |", "|---|---|---|---|---|"]
        for row in self.methods.itertuples():
            interval = f"{row.low:.2f} to {row.high:.2f}"
            lines.append(f"| {row.method} | {row.mean:.2f} | {interval} | {row.ratings} | {row.raters} |")
        lines += ["", "| difference | mean | 95 % interval | Wilcoxon p | pairs |", "|---|---|---|---|---|"]
        for row in self.tests.itertuples():
            interval = f"{row.low:.2f} to {row.high:.2f}"
            lines.append(f"| {row.second} - {row.first} | {row.mean:+.2f} | {interval} | {row.p:.3g} | {row.pairs} |")
        lines += ["", f"Agreement between raters (Krippendorff's alpha, interval): {self.agreement:.2f}"]
        return "\n".join([*lines, *(f"left out: {name}: {reason}" for name, reason in self.bad.items())])


def analyse(files: Sequence[str | Path]) -> Analysis:
    """Read what raters saved, and work out means, differences, tests and agreement.

    A file that can't be used is left out and named in ``bad``. Of a rater's files for one page the last counts.

    Args:
        files: files that the page of `make_page` saved.

    Raises:
        EntropyLabError: no file, or none that can be used.
    """
    if isinstance(files, str | Path):
        raise EntropyLabError(f"files must be a list of files that the ratings page saved. Got {files!r}.")
    good, bad = {}, {}
    for path in files:
        try:
            rows = read(as_path(path, "files"))
            good[rows[0]["rater"], rows[0]["page"]] = rows
        except (OSError, ValueError) as error:
            bad[str(path)] = one_line(error, 200)
    if not good:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in bad.items()) or "none was given"
        raise EntropyLabError(f"files must be what the ratings page saved. None can be used: {reasons}")
    scores = pd.DataFrame([row for rows in good.values() for row in rows])
    table = scores.pivot_table(index="rater", columns=["page", "pair", "method"], values="score", aggfunc="last")
    agreement = krippendorff(table.to_numpy(dtype=float))
    return Analysis(scores, by_method(scores), by_pair(scores), agreement, bad)


def read(path: Path) -> list[dict[str, Any]]:
    """The ratings of one file, a row each; ValueError says what is wrong with it."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = found["format"] == FORMAT
    except (ValueError, TypeError, KeyError, RecursionError):
        known = False
    if not known:
        raise ValueError(f"it is not of the format {FORMAT!r}")
    same = {"rater": str(found.get("rater")), "page": str(found.get("page"))}
    try:
        key = json.loads(base64.b64decode(found["key"], validate=True))
        rows = []
        for rating in found["ratings"]:
            pair, (first, second) = key[rating["pair"]], rating["scores"]
            named = same | {"pair": rating["pair"], "name": pair["name"], "prompt": pair["prompt"]}
            if not isinstance(pair["methods"], list):
                raise TypeError("methods must be a list of two names")
            one, other = pair["methods"]
            rows += [named | {"method": one, "score": first}, named | {"method": other, "score": second}]
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"its ratings or its key to the methods are damaged: {error}") from error
    if not rows:
        raise ValueError("it has no ratings")
    if not all(is_sound(row) for row in rows):
        raise ValueError("its ratings must be whole numbers from 1 to 10, of methods, names and prompts in words")
    return rows


def is_sound(row: dict[str, Any]) -> bool:
    """Whether a row has a score from 1 to 10 of a known pair, and all its words are text that can be written."""
    try:
        words = b"".join(row[name].encode() for name in ("method", "name", "prompt"))
    except (AttributeError, UnicodeEncodeError):
        return False
    pair, score = row["pair"], row["score"]
    return bool(words) and type(pair) is type(score) is int and pair >= 0 and 1 <= score <= 10


def by_method(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean rating of every method, with an interval over raters, or over pairs where there is one rater."""
    rows = []
    for method, group in scores.groupby("method"):
        unit = "rater" if group.rater.nunique() > 1 else "name"
        low, high = t_interval(group.groupby(unit).score.mean().to_numpy())
        rows.append((method, group.score.mean(), low, high, len(group), group.rater.nunique()))
    return pd.DataFrame(rows, columns=["method", "mean", "low", "high", "ratings", "raters"])


def by_pair(scores: pd.DataFrame) -> pd.DataFrame:
    """Difference between two methods, pair by pair (means over raters), with Wilcoxon's signed-rank test."""
    rows = []
    for first, second in combinations(sorted(scores.method.unique()), 2):
        both = scores.groupby(["page", "pair"]).method.transform(lambda found, pair={first, second}: pair <= set(found))
        table = scores[both].pivot_table(index=["page", "pair"], columns="method", values="score", aggfunc="mean")
        if not {first, second} <= set(table):
            continue
        change = (table[second] - table[first]).dropna().to_numpy()
        p = float(wilcoxon(change).pvalue) if np.any(change) else 1.0
        rows.append((first, second, change.mean(), *t_interval(change), p, len(change)))
    return pd.DataFrame(rows, columns=["first", "second", "mean", "low", "high", "p", "pairs"])


def t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    reach = student.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


def krippendorff(ratings: np.ndarray) -> float:
    """Krippendorff's alpha for interval data of ratings (raters, units), NaN where missing; NaN without a pair.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
    """
    counts = (~np.isnan(ratings)).sum(0)
    paired = ratings[:, counts > 1]
    if paired.size == 0:
        return np.nan
    m = (~np.isnan(paired)).sum(0)
    within = sum(np.nansum((paired - row) ** 2, axis=0) for row in paired)
    observed = (within / (m - 1)).sum() / m.sum()
    values = paired[~np.isnan(paired)]
    expected = 2 * values.size * values.var(ddof=0) / (values.size - 1)
    return float(1 - observed / expected) if expected > 0 else np.nan
