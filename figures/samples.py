"""Figures 3 and 4, pictures from the same seeds: python figures/samples.py [--out DIR] [--run FILE.nc].

FILE.nc is the pictures.nc of an earlier run of regenerate.py.
"""

from entropylab.figures import samples
from entropylab.figures.command import command

if __name__ == "__main__":
    command(samples)
