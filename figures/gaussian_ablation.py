"""How the law decays as tokens leave the Gaussian: python figures/gaussian_ablation.py [--out DIR] [--run FILE.nc].

Simulated; needs no model. FILE.nc is the gaussian_ablation.nc of an earlier run of regenerate.py.
"""

from entropylab.figures import gaussian_ablation
from entropylab.figures.command import command

if __name__ == "__main__":
    command(gaussian_ablation)
