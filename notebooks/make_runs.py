"""Make the two small runs that notebook 5 reads: python make_runs.py, in this folder.

The second is left as if it had been killed half way.
"""

import shutil
from pathlib import Path

import entropylab

PROMPTS = ["a red heart", "a banana", "a hamburger", "a red car", "a sailboat", "a fox", "a penguin", "a sunflower"]
CAPTIONS, RUNS = Path("prompts.txt"), Path("runs")
SEEDS = {"machine-a": 0, "machine-b": 8}

if __name__ == "__main__":
    shutil.rmtree(RUNS, ignore_errors=True)
    CAPTIONS.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    pipe = entropylab.load()
    for name, seed in SEEDS.items():
        entropylab.measure(
            pipe, [32, 48, 64, 96], scaling=["original", "sqrt_log"], prompts=CAPTIONS, samples=8, seed=seed, steps=4,
            layers="self", keep=("layer", "head"), unit_samples=4, out=RUNS / name,
        )  # fmt: skip
        shutil.rmtree(RUNS / name / "locks")
        (RUNS / name / ".lock").unlink(missing_ok=True)
    for unit in sorted((RUNS / "machine-b" / "units").iterdir())[10:]:
        unit.unlink()
    CAPTIONS.unlink()
