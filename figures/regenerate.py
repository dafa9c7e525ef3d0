"""All figures, and with --tables all tables, as `entropylab figures` does: python figures/regenerate.py [--out DIR].

--run FILE.nc draws what was measured before; --help says more.
"""

import sys

from entropylab.cli import app

if __name__ == "__main__":
    app(["figures", *sys.argv[1:]])
