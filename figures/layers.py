"""Single layers through the steps, and heads: python figures/layers.py [--out DIR] [--run FILE.nc].

FILE.nc is the law.nc of an earlier run of regenerate.py.
"""

from entropylab.figures import layers
from entropylab.figures.command import command

if __name__ == "__main__":
    command(layers)
