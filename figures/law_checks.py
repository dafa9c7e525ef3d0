"""The law where nothing is fitted, by layer and head: python figures/law_checks.py [--out DIR] [--run FILE.nc].

FILE.nc is the law.nc of an earlier run of regenerate.py.
"""

from entropylab.figures import law_checks
from entropylab.figures.command import command

if __name__ == "__main__":
    command(law_checks)
