"""``python -m tests.pretended [FAMILY ...]``: families of the zoo, or all of it, on pretended GPUs, a line for each."""

import sys
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


def main(names: Sequence[str]) -> None:
    """Examine the families so named, or all."""
    for name in names or list(BY_NAME):
        for place in PLACES:
            print(line(name, place), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
