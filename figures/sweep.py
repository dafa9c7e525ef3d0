"""Entropy and drift against the multiplier of the softmax scale: python figures/sweep.py [--out DIR] [--run FILE.nc].

FILE.nc is the sweep.nc of an earlier run of regenerate.py.
"""

from entropylab.figures import sweep
from entropylab.figures.command import command

if __name__ == "__main__":
    command(sweep)
