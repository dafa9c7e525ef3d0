"""The law in two models, side by side: python figures/two_models.py [--out DIR] [--run FILE.nc FILE.nc].

The files are the two_models_*.nc of an earlier run of regenerate.py, or any that `entropylab measure` wrote.
"""

from entropylab.figures import two_models
from entropylab.figures.command import command

if __name__ == "__main__":
    command(two_models)
