"""A report as Markdown, its figures in a folder beside it."""

from collections.abc import Sequence
from urllib.parse import quote

from .blocks import Block, Picture, Reading, Section
from .tables import Table

SPECIAL = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#"})
"""Marks that Markdown would take for its own."""


def markdown(
    title: str, lead: Sequence[Block], sections: Sequence[Section], glossary: Sequence[tuple[str, str]], folder: str
) -> str:
    """The whole Markdown file; arguments as of `page`, and the name of the folder with the figures."""
    parts = [f"# {plain(title)}", *(block_text(block, folder) for block in lead)]
    for section in sections:
        parts += [f"## {plain(section.title)}", f"*{plain(section.question)}*"]
        parts += [block_text(block, folder) for block in section.blocks]
    parts += ["## Words", "\n".join(f"- **{plain(term)}**: {plain(text)}" for term, text in glossary)]
    return "\n\n".join(parts) + "\n"


def block_text(block: Block, folder: str) -> str:
    """A reading, a table or a figure."""
    if isinstance(block, Table):
        return table_text(block)
    if isinstance(block, Picture):
        return f"![{plain(block.caption)}]({quote(folder)}/{quote(block.name)}.png)"
    return reading_text(block)


def reading_text(reading: Reading) -> str:
    """What the numbers of a run say."""
    label = [f"**{plain(reading.label)}**", ""] if reading.label else []
    return "\n".join([*label, *(f"- {plain(point)}" for point in reading.points)])


def table_text(table: Table) -> str:
    """A table with its title above it."""
    rule = ["---", *("---:" for _ in table.columns[1:])]
    rows = [[plain(word) for word in row] for row in (table.columns, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
    return f"{plain(table.title)}\n\n" + "\n".join(lines)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return " ".join(text.split()).translate(SPECIAL)
