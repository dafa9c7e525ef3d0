"""Standardised logits beside the Gaussian: python figures/logits.py [--out DIR] [--run FILE.nc].

FILE.nc is the logits.nc of an earlier run of regenerate.py.
"""

from entropylab.figures import logits
from entropylab.figures.command import command

if __name__ == "__main__":
    command(logits)
