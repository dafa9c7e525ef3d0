"""Figure 5: entropy and deficit against log N: python figures/figure5.py [--out DIR] [--run FILE.nc].

FILE.nc is what `entropylab measure` wrote, or the measurement.nc of an earlier run of regenerate.py.
"""

from entropylab.figures import figure5
from entropylab.figures.command import command

if __name__ == "__main__":
    command(figure5)
