"""``python -m tests.pretended [FAMILY ...]``: families of the zoo, or all of it, on pretended GPUs, a line for each."""

from argparse import ArgumentParser
from collections.abc import Sequence

from ..zoo import BY_NAME
from .examining import examine

PLACES = ("cuda:1", "both")


def line(name: str, place: str) -> str:
    """What was found of a family, or what ended it."""
    try:
        found = examine(BY_NAME[name], place)
        waits = ", ".join(f"{count} x {where}" for where, count in found.waits.items()) or "none"
        numbers = f"error {found.error:.1e} nats, {found.launches_per_call:.1f} launches a call, waits: {waits}"
        return f"{name} on {place}: images {'the same' if found.identical else 'CHANGED'}, {numbers}"
    except Exception as error:
        return f"{name} on {place}: {type(error).__name__}: {str(error).splitlines()[0]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine the families so named, or all."""
    parser = ArgumentParser(prog="python -m tests.pretended", description="Examine families of the zoo.")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="name as in docs/pipelines.md; all by default")
    names = parser.parse_args(arguments).families or list(BY_NAME)
    if unknown := [name for name in names if name not in BY_NAME]:
        parser.error(f"there is no family {', '.join(unknown)}")
    for name in names:
        for place in PLACES:
            print(line(name, place), flush=True)


if __name__ == "__main__":
    main()
