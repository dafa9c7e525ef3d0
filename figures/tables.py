"""All tables from one evaluation: python figures/tables.py [MODEL] [--run evaluation.nc]; --help says more."""

from entropylab.figures.tables import command

if __name__ == "__main__":
    command()
