"""All tables from one evaluation: python figures/tables.py [MODEL] [--out DIR] [--run evaluation.nc] [--samples N] [--steps N]."""

from entropylab.figures.tables import command

if __name__ == "__main__":
    command()
