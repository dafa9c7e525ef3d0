"""Supplement's Table 2, MultiDiffusion: python figures/table_s2.py [MODEL] [--run evaluation.nc]; --help says more."""

from entropylab.figures.tables import command

if __name__ == "__main__":
    command(["table_s2"])
