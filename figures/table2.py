"""Table 2, CLIP score: python figures/table2.py [MODEL] [--out DIR] [--run evaluation.nc] [--samples N] [--steps N]."""

from entropylab.figures.tables import command

if __name__ == "__main__":
    command(["table2"])
