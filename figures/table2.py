"""Table 2, CLIP score: python figures/table2.py [MODEL] [--run evaluation.nc]; --help says more."""

from entropylab.figures.tables import command

if __name__ == "__main__":
    command(["table2"])
