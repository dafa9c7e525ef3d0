"""Supplement's Table 2, MultiDiffusion: python figures/table_s2.py [MODEL] [--out DIR] [--run evaluation.nc] [--samples N] [--steps N]."""

from entropylab.figures.tables import command

if __name__ == "__main__":
    command(["table_s2"])
