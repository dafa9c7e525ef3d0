"""``entropylab ratings analyse``: what many people rated, by method, with intervals, tests and agreement."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student
from scipy.stats import wilcoxon

from ...errors import EntropyLabError, one_line
from ...files import as_path
from .page import FORMAT


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
    return Analysis(scores, by_method(scores), by_pair(scores), krippendorff(as_matrix(scores)), bad)


def read(path: Path) -> list[dict[str, Any]]:
    """The ratings of one file, a row each; ValueError says what is wrong with it."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"it is not of the format {FORMAT!r}")
    key = decoded(found.get("key"))
    ratings = found.get("ratings")
    if not isinstance(ratings, list) or not ratings:
        raise ValueError("it has no ratings")
    rows: list[dict[str, Any]] = []
    for rating in ratings:
        pair, scores = checked(rating, len(key))
        for method, score in zip(key[pair]["methods"], scores, strict=True):
            same = {"rater": str(found.get("rater")), "page": str(found.get("page")), "pair": pair}
            rows.append(
                same | {"name": key[pair]["name"], "prompt": key[pair]["prompt"], "method": method, "score": score}
            )
    return rows


def decoded(key: Any) -> list[dict[str, Any]]:
    """Which method made which picture."""
    try:
        found = json.loads(base64.b64decode(str(key), validate=True))
        sound = isinstance(found, list) and all(map(is_sound, found))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise ValueError("its key to the methods is damaged") from error
    if not sound:
        raise ValueError("its key to the methods is damaged")
    return list(found)


def is_sound(one: Any) -> bool:
    """Whether an entry of the key has two methods, a name and a prompt, all of them text that can be written."""
    if not isinstance(one, dict) or not isinstance(one.get("methods"), list) or len(one["methods"]) != 2:
        return False
    words = [*one["methods"], one.get("name"), one.get("prompt")]
    return all(isinstance(word, str) and word == word.encode(errors="ignore").decode() for word in words)


def checked(rating: Any, pairs: int) -> tuple[int, list[int]]:
    """Pair and two scores of one rating."""
    pair = rating.get("pair") if isinstance(rating, dict) else None
    if not isinstance(pair, int) or isinstance(pair, bool) or not 0 <= pair < pairs:
        raise ValueError(f"it rates pair {pair!r}, of {pairs}")
    scores = rating.get("scores")
    right = isinstance(scores, list) and len(scores) == 2
    if not right or not all(isinstance(one, int) and not isinstance(one, bool) and 1 <= one <= 10 for one in scores):
        raise ValueError(f"pair {pair} must have two ratings from 1 to 10, and has {scores!r}")
    return pair, scores


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


def as_matrix(scores: pd.DataFrame) -> np.ndarray:
    """Ratings (raters, pictures), NaN where somebody did not rate."""
    table = scores.pivot_table(index="rater", columns=["page", "pair", "method"], values="score", aggfunc="last")
    return table.to_numpy(dtype=float)


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
