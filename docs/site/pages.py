"""What the pages get while they are built: formulas as MathML, the Dataset's variables, and the figures."""

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

from entropylab.dataset import UNITS

CODE = r"```.*?```|`[^`\n]*`"
DISPLAYED = re.compile(rf"({CODE})|\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(rf"({CODE})|\$((?:[^$\n]|\n(?!\n))+?)\$", re.DOTALL)
VARIABLES = "<!-- variables -->"
FIGURES = "figures/output"


def on_files(files: Any, config: Any, **_: Any) -> None:
    """Every figure that `make figures` draws, which pages show from where it lies."""
    root = Path(config["config_file_path"]).parent
    for path in sorted((root / FIGURES).glob("*.png")):
        files.append(File.generated(config, f"{FIGURES}/{path.name}", abs_src_path=str(path)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its formulas as MathML (code is left alone), and the table of variables where it is asked for."""
    displayed = DISPLAYED.sub(lambda found: found[1] or formula(found[2].strip(), "block"), markdown)
    drawn = INLINE.sub(lambda found: found[1] or formula(found[2], "inline"), displayed)
    return drawn.replace(VARIABLES, variables()).replace(f"../{FIGURES}", FIGURES)  # the site begins in docs/


def formula(latex: str, display: str) -> str:
    """One formula; in an element that Markdown knows to be of a line, or of a block."""
    element = "div" if display == "block" else "span"
    spaced = re.sub(r"(\\log(?:_\w)?) ", r"\1\\, ", " ".join(latex.split()))
    return f"<{element}>{convert(spaced, display=display)}</{element}>"


def variables() -> str:
    """Name, units and meaning of everything in a measured Dataset, as a table."""
    rows = (f"| `{name}` | {units} | {meaning} |" for name, (units, meaning) in UNITS.items())
    return "\n".join(["| name | units | what it is |", "|---|---|---|", *rows])
