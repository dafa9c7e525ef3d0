"""Supplement's Table 1, resizing: python figures/table_s1.py [MODEL] [--run evaluation.nc]; --help says more."""

from entropylab.figures.tables import command

if __name__ == "__main__":
    command(["table_s1"])
