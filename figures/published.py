"""What the paper publishes, in figures/published/: Tables 1 to 3 and the supplement's two, sizes as height x width.

The paper does not say which of "512 * 288" is the width; it is taken to be the first. Table 1 has FID of 30,000
pictures (Stable Diffusion) and 50,000 (latent diffusion), none comparable with distances in other features; Table 2 has
CLIP scores, Table 3 mean ratings from 1 to 10 by 45 people of 50 pairs. At the training size both factors are the same.
The supplement's tables have FID, GPU memory and average time; the second is of 4,000 pictures, says the paper, but its
FID at 768 is to the last digit that of Table 1.
"""

from pathlib import Path

import pandas as pd

from entropylab.models import PRESETS

MODELS = {PRESETS["sd21"].model: "Stable Diffusion 2.1-base", PRESETS["ldm256"].model: "LDM text-to-image 256"}
"""The paper's names of its models."""

MARK = " (published)"


def table(name: str) -> pd.DataFrame:
    """A table as published: table1, table2, table3, table_s1 or table_s2; the names of its values say so."""
    found = pd.read_csv(Path(__file__).with_name("published") / f"{name}.csv")
    return found.rename(columns=lambda column: column if column in ("model", "size", "rule") else column + MARK)


def beside(found: pd.DataFrame, model: str, paper: pd.DataFrame | None) -> pd.DataFrame:
    """A table with the published values of the same model, size and rule beside its own, where there are any."""
    if paper is None or model not in MODELS:
        return found
    values = paper[paper.model == MODELS[model]].drop(columns="model")
    if "rule" not in values:
        values = values.melt("size", var_name="rule", value_name="published")
        values["rule"] = values.rule.str.removesuffix(MARK)
    return found.merge(values, "left", on=["size", "rule"])
