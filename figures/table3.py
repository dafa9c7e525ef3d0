"""Table 3: what people rated, from the files that the page of ratings.py saved, with the published means alongside."""

import base64
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

import shared
from entropylab import EntropyLabError
from ratings import FORMAT
from tables import published

NONE = "No ratings were given: `python figures/ratings.py` writes a page that asks for them."


@dataclass(frozen=True)
class Analysis:
    """Ratings of many people."""

    scores: pd.DataFrame  # one row a rating: rater, page, pair, name, prompt, method, score (1 to 10)
    methods: pd.DataFrame  # one row a method: mean, low, high (95 %), ratings, raters
    tests: pd.DataFrame  # one row a pair of methods: mean difference, low, high, p of Wilcoxon's test, pairs
    agreement: float  # Krippendorff's alpha (interval), 1 for the same, 0 for chance; NaN for one rater
    bad: dict[str, str]  # what was wrong with files that were left out, by file

    def summary(self) -> str:
        """The tables as Markdown."""
        tests = self.tests.assign(p=self.tests.p.map("{:.3g}".format))
        tests = tests.rename(columns={"mean": "second - first", "p": "Wilcoxon p"})
        parts = [shared.as_markdown(self.methods), shared.as_markdown(tests)]
        parts.append(f"Agreement between raters (Krippendorff's alpha, interval): {self.agreement:.2f}")
        return "\n\n".join([*parts, *(f"left out: {name}: {reason}" for name, reason in self.bad.items())])


def analyse(files: Sequence[str | Path]) -> Analysis:
    """Means, differences, tests and agreement; files that can't be used are left out.

    Of a rater's files for one page the last counts.
    """
    good, bad = {}, {}
    for path in files:
        try:
            rows = read(Path(path))
            good[rows[0]["rater"], rows[0]["page"]] = rows
        except (OSError, ValueError) as error:
            bad[str(path)] = " ".join(str(error).split())[:200]
    if not good:
        raise EntropyLabError(f"files must be what the ratings page saved. None can be used: {bad}")
    scores = pd.DataFrame([row for rows in good.values() for row in rows])
    table = scores.pivot_table(index="rater", columns=["page", "pair", "method"], values="score", aggfunc="last")
    agreement = krippendorff(table.to_numpy(dtype=float))
    return Analysis(scores, by_method(scores), by_pair(scores), agreement, bad)


def read(path: Path) -> list[dict[str, Any]]:
    """The ratings of one file, a row each; ValueError says what is wrong with it."""
    rows = []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        key = json.loads(base64.b64decode(found["key"], validate=True))
        known = {"rater": str(found["rater"]), "page": str(found["page"])}
        for rating in found["ratings"] if found["format"] == FORMAT else ():
            number = as_int(rating["pair"], 0, len(key) - 1)
            pair = key[number]
            for method, score in zip(pair["methods"], rating["scores"], strict=True):
                named = {"name": as_text(pair["name"]), "prompt": str(pair["prompt"]), "method": as_text(method)}
                rows.append(known | {"pair": number} | named | {"score": as_int(score, 1, 10)})
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"it is damaged, or not what the ratings page saves: {error}") from error
    if not rows:
        raise ValueError("it has no ratings of the format that the ratings page saves")
    return rows


def as_int(value: Any, least: int, most: int) -> int:
    """A whole number between two."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r:.50} is no whole number from {least} to {most}")
    return value


def as_text(value: Any) -> str:
    """A name, of letters that a terminal only shows."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{value!a:.50} is no name")
    return value


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


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's 95% interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    reach = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


def krippendorff(ratings: np.ndarray) -> float:
    """Krippendorff's alpha for interval data of ratings (raters, units), NaN where missing; NaN without a pair.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
    """
    counts = (~np.isnan(ratings)).sum(0)
    paired, m = ratings[:, counts > 1], counts[counts > 1]
    if paired.size == 0:
        return np.nan
    within = sum(np.nansum((paired - row) ** 2, axis=0) for row in paired)
    observed = (within / (m - 1)).sum() / m.sum()
    values = paired[~np.isnan(paired)]
    expected = 2 * values.size * values.var(ddof=0) / (values.size - 1)
    return float(1 - observed / expected) if expected > 0 else np.nan


def draw(files: Sequence[Path], out: Path) -> None:
    """Write table3.md, table3_published.csv and, if there are ratings, table3.csv."""
    found = analyse(files) if files else None
    paper = published("table3")
    parts = ["## Table 3: ratings from 1 to 10", found.summary() if found else NONE]
    parts += ["Published by the paper, of 45 people and 50 pairs:", shared.as_markdown(paper)]
    shared.write_text(parts, out, "table3")
    shared.write_table(paper, out, "table3_published")
    if found:
        shared.write_table(found.methods, out, "table3")


if __name__ == "__main__":
    parser = shared.new_parser(__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILES", help="what the ratings page saved")
    given = parser.parse_args()
    shared.run(parser, given.out, lambda: draw(given.files, given.out))
