"""What was asked of the pretended GPUs, in order, and who asked."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

import entropylab

OURS = os.path.join(os.path.dirname(entropylab.__file__), "")
PASSED_BY = (os.path.join(os.path.dirname(torch.__file__), ""), os.path.join(os.path.dirname(__file__), ""))
"""Files between an operation and whoever asked for it."""


class Operation(NamedTuple):
    """A launch, or a wait of the host for a GPU: "aten::add", asked for in "measuring/run.py:72 add_step".

    The place is "" if something else asked. A call of the model's own that entropylab passes on counts as entropylab's
    here: compare with a run without it.
    """

    kind: Literal["launch", "wait"]
    name: str
    place: str


def place() -> str:
    """Where in entropylab somebody asks for an operation; "" if it is asked for elsewhere."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(PASSED_BY):
        frame = frame.f_back
    if frame is None or not frame.f_code.co_filename.startswith(OURS):
        return ""
    return f"{frame.f_code.co_filename.removeprefix(OURS)}:{frame.f_lineno} {frame.f_code.co_name}"


@dataclass
class Log:
    """What was asked, in order."""

    operations: list[Operation] = field(default_factory=list)
    forwards: list[tuple[int, int]] = field(default_factory=list)  # how many operations there were at begin and end

    def note(self, kind: Literal["launch", "wait"], name: str) -> None:
        """Take one down, with its place."""
        self.operations.append(Operation(kind, name, place()))

    def named(self, kind: str) -> Counter[str]:
        """Name -> how often it was asked for."""
        return Counter(each.name for each in self.operations if each.kind == kind)

    launches = property(lambda self: self.named("launch"))
    waits = property(lambda self: self.named("wait"))

    @property
    def while_sampling(self) -> "Log":
        """What was asked from the beginning of the first forward to the end of the last."""
        return Log(self.operations[self.forwards[0][0] : self.forwards[-1][1]])

    def places(self, kind: str, names: Iterable[str]) -> Counter[str]:
        """Where the host waited, or launched, what is named; for messages."""
        wanted = set(names)
        found = (each for each in self.operations if each.kind == kind and each.name in wanted)
        return Counter(f"{each.name} in {each.place or 'another package'}" for each in found)

    def counted_in_forwards(self, names: Iterable[str]) -> int:
        """How many operations so named were launched inside of the denoisers' forwards."""
        wanted = set(names)
        inside = (self.operations[start:stop] for start, stop in self.forwards)
        return sum(each.kind == "launch" and each.name in wanted for some in inside for each in some)

    @contextmanager
    def following(self, denoisers: Iterable[nn.Module]) -> Iterator[None]:
        """Note when the denoisers' forwards begin and end, while the context lasts."""
        begun: list[int] = []
        with ExitStack() as stack:
            for each in denoisers:
                begin = each.register_forward_pre_hook(lambda *_: begun.append(len(self.operations)))
                end = each.register_forward_hook(lambda *_: self.forwards.append((begun.pop(), len(self.operations))))
                stack.callback(begin.remove)
                stack.callback(end.remove)
            yield
