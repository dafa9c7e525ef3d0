"""Commands about people's ratings: ``entropylab ratings make``, ``analyse``."""

from pathlib import Path
from typing import Annotated

import typer

from ..files import check_writable
from . import options as opt
from .application import app
from .words import say, write_csv

ABOUT = "Ask people to rate pictures blindly, and analyse what they rated."

ratings = typer.Typer(help=ABOUT, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(ratings, name="ratings", short_help=ABOUT)


@ratings.command(
    short_help="Write a page of blinded pairs of pictures.",
    help="Write one HTML page that shows pairs of pictures of the same prompt, shuffled and without the names of their "
    "methods, and asks for a rating from 1 to 10 of each. It needs no server and no network; raters save a file. "
    "PICTURES are two or more folders, one a method, with pictures of the same names.",
    epilog="\b\nExamples:\n  entropylab ratings make pictures/96x96/original pictures/96x96/sqrt_log --out page.html",
)
def make(
    pictures: Annotated[list[Path], opt.argument("PICTURES...", "Folders of pictures, one a method.")],
    out: Annotated[Path, opt.path_option("FILE.html", "Page to write.")] = Path("ratings.html"),
    prompts: Annotated[
        Path | None,
        opt.path_option("FILE", "Text file, a prompt a line, in the order of names; the PNGs' own if left out."),
    ] = None,
    pairs: Annotated[int, opt.option("N", "Pairs on the page at most, a random choice.", min=1)] = 50,
    seed: Annotated[int, opt.option("N", "Seed of the choice.", min=0)] = 0,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab ratings make``."""
    from ..quality.ratings import make_page

    path = make_page(pictures, out, prompts=prompts, pairs=pairs, seed=seed, overwrite=overwrite)
    say(f"wrote {path}; next: entropylab ratings analyse FILE..., the files that raters saved")


@ratings.command(
    short_help="Analyse the files that raters saved.",
    help="Read the files that raters saved and print mean ratings with 95 % intervals (over raters; over pairs "
    "if there is one rater) by method, differences between methods pair by pair with Wilcoxon's signed-rank test, and "
    "how far raters agree (Krippendorff's alpha). Files that can't be used are named and left out.",
    epilog="\b\nExamples:\n  entropylab ratings analyse ratings-*.json --out table3.csv",
)
def analyse(
    files: Annotated[list[Path], opt.argument("FILES...", "What the page saved.")],
    out: Annotated[Path | None, opt.path_option("FILE.csv", "Write the means by method.")] = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """``entropylab ratings analyse``."""
    from ..quality.ratings import analyse as analysed

    if out is not None:
        check_writable(out, overwrite)
    found = analysed(files)
    say(found.summary())
    if out is not None:
        write_csv(found.methods, out, "%.4f")
