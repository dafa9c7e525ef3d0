"""Figure 6: entropy by layer, original and rescaled: python figures/figure6.py [--out DIR] [--run FILE.nc].

FILE.nc is what `entropylab measure` wrote, or the measurement.nc of an earlier run of regenerate.py.
"""

from entropylab.figures import figure6
from entropylab.figures.command import command

if __name__ == "__main__":
    command(figure6)
