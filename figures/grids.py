"""Grids of an evaluation's pictures, figures 1, 3, 4 and 7: python figures/grids.py PICTURES [--out DIR]."""

from entropylab.figures.grids import command

if __name__ == "__main__":
    command()
