"""``python -m tests.zoo``: write the table of supported pipelines into the documentation."""

import argparse

from . import FAMILIES
from .check import examine
from .table import PAGE, page


def main() -> None:
    """Examine every family, and write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page([examine(family) for family in FAMILIES]), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
