"""All figures, as `entropylab figures` does: python figures/regenerate.py [--out DIR] [--run FILE.nc]."""

import sys

from entropylab.cli import app

if __name__ == "__main__":
    app(["figures", *sys.argv[1:]])
