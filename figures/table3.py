"""Table 3, what people rated: python figures/table3.py [FILES that the ratings page saved] [--out DIR]."""

from entropylab.figures.table3 import command

if __name__ == "__main__":
    command()
