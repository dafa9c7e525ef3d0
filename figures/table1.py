"""Table 1, Frechet distance: python figures/table1.py [MODEL] [--run evaluation.nc]; --help says more."""

from entropylab.figures.tables import command

if __name__ == "__main__":
    command(["table1"])
