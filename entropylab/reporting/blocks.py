"""What a report is made of: sections of readings, tables and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .tables import Table


@dataclass(frozen=True)
class Reading:
    """What the numbers of a run say.

    Attributes:
        label: the run, or "" for what is said of all of them.
        points: in order, each of a sentence or a few.
    """

    label: str
    points: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its file, without an ending.
        caption: what it shows.
        png: the figure itself.
        wide: whether it takes the whole width of a page.
    """

    name: str
    caption: str
    png: bytes = field(repr=False)
    wide: bool = False


Block = Reading | Table | Picture


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: its heading.
        question: what it answers, for a reader who knows nothing of this package.
        blocks: its readings, tables and pictures.
    """

    title: str
    question: str
    blocks: tuple[Block, ...]

    @property
    def headlines(self) -> list[Reading]:
        """The first point about every run."""
        found = [block for block in self.blocks if isinstance(block, Reading) and block.points]
        first = {block.label: block for block in reversed(found)}
        return [Reading(label, first[label].points[:1]) for label in dict.fromkeys(block.label for block in found)]


def reading(label: str, parts: Sequence[Sequence[str]]) -> Reading:
    """What several functions of `readings` return, as a point each; nothing of those that have nothing to say."""
    return Reading(label, tuple(" ".join(sentences) for sentences in parts if sentences))
