"""Changes that several observers want at once: made for the first of them, undone after the last."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Undo = Callable[[], None]

MISSING = object()


class Shared:
    """Changes of one sort, each thing changed once however many want it changed."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.made: dict[int, tuple[Any, Undo, int]] = {}

    def __contains__(self, thing: Any) -> bool:
        return id(thing) in self.made

    def begin(self, thing: Any, change: Callable[[Any], Undo]) -> None:
        """Have ``thing`` changed by ``change``, which returns the way back, until as many times ``end``."""
        with self.lock:
            _, undo, count = self.made.get(id(thing)) or (thing, change(thing), 0)
            self.made[id(thing)] = (thing, undo, count + 1)

    def end(self, thing: Any) -> None:
        """Undo one ``begin``."""
        with self.lock:
            _, undo, count = self.made.pop(id(thing))
            if count > 1:
                self.made[id(thing)] = (thing, undo, count - 1)
            else:
                undo()

    @contextmanager
    def changed(self, thing: Any, change: Callable[[Any], Undo]) -> Iterator[None]:
        """Have ``thing`` changed while the context lasts."""
        self.begin(thing, change)
        try:
            yield
        finally:
            self.end(thing)


stood_for: dict[int, dict[str, Any]] = {}
"""Id of something with attributes of ours -> what it had in their places, ``MISSING`` if it had inherited that."""


def replaced(owner: Any, name: str, substitute: Any) -> Undo:
    """Put something in the place of an attribute; the way back leaves inherited what the owner had inherited."""
    own = vars(owner).get(name, MISSING)
    setattr(owner, name, substitute)
    stood_for.setdefault(id(owner), {})[name] = own

    def undo() -> None:
        del stood_for[id(owner)][name]
        if not stood_for[id(owner)]:
            del stood_for[id(owner)]
        if own is MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, own)

    return undo


def with_own(thing: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The attributes of something as they are without ours."""
    for name, own in stood_for.get(id(thing), {}).items():
        state = {other: value for other, value in state.items() if other != name}
        state |= {} if own is MISSING else {name: own}
    return state


def together(undoing: Sequence[Undo]) -> Undo:
    """Several ways back as one, the last change first."""

    def undo() -> None:
        for one in reversed(undoing):
            one()

    return undo
