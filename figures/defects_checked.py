"""Measures of the defects on pictures broken on purpose: python figures/defects_checked.py; --help says more."""

from entropylab.figures.defects_checked import command

if __name__ == "__main__":
    command()
