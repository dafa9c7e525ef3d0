"""A report as one HTML file: nothing in it comes from elsewhere, it reads on a phone, and it prints."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from .blocks import Block, Picture, Reading, Section
from .tables import Table

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: #fff; color: #1a1a1a;
       font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; padding-top: .6rem; border-top: 1px solid #bbb; }
p { margin: .6rem 0; max-width: 46rem; }
nav ol { padding-left: 1.3rem; columns: 16rem 2; margin: .6rem 0; }
a { color: #00518a; }
.question { color: #444; font-style: italic; }
.reading { margin: .8rem 0; padding: .1rem .9rem; border-left: 4px solid #0072b2; background: #f4f8fb;
           max-width: 48rem; }
.reading h3 { font-size: 1rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
.title { font-size: .9rem; margin: 1rem 0 .3rem; }
.title + .scroll { margin-top: 0; }
th, td { padding: .22rem .55rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th { border-bottom: 1.5px solid #333; vertical-align: bottom; }
th:first-child, td:first-child, .words, .names { text-align: left; }
.reading ul { margin: .5rem 0; padding-left: 1.1rem; }
.reading li { margin: .25rem 0; }
td, th:first-child { white-space: nowrap; }
td.words { white-space: normal; min-width: 11rem; overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
figure { margin: 0; flex: 1 1 24rem; max-width: 30rem; }
figure.wide { flex-basis: 100%; max-width: 100%; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; color: #333; margin-top: .3rem; }
footer { margin: 2.5rem 0 1rem; font-size: .85rem; color: #444; border-top: 1px solid #bbb; padding-top: .6rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  nav { display: none; }
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .1rem .25rem; }
  figure, tr, .reading li { break-inside: avoid; }
  figure { flex: 0 1 47%; }
  h2, h3, .question, .title { break-after: avoid; }
  figcaption, .title { font-size: 8pt; }
}
@page { margin: 15mm; }
"""

LONG = 24
"""A column with a word of more letters than this is broken into lines."""


def page(title: str, lead: Sequence[Block], sections: Sequence[Section], glossary: Sequence[tuple[str, str]]) -> str:
    """The whole HTML file.

    Args:
        title: of the report.
        lead: what stands before the sections.
        sections: in order.
        glossary: terms and what they mean.
    """
    links = "".join(f'<li><a href="#s{i}">{escape(section.title)}</a></li>' for i, section in enumerate(sections, 1))
    body = "".join(section_html(section, i) for i, section in enumerate(sections, 1))
    terms = "".join(f"<dt><b>{escape(term)}</b></dt><dd>{escape(text)}</dd>" for term, text in glossary)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{blocks_html(lead)}<nav><ol>{links}</ol></nav>\n{body}"
        f'<section><h2 id="words">Words</h2><dl>{terms}</dl></section>\n'
        "<footer>Made by entropylab. Entropies are in nats, sizes are height × width in pixels.</footer>\n"
        "</body>\n</html>\n"
    )


def section_html(section: Section, place: int) -> str:
    """A section with its heading and its question."""
    head = f'<h2 id="s{place}">{escape(section.title)}</h2>\n<p class="question">{escape(section.question)}</p>\n'
    return f"<section>\n{head}{blocks_html(section.blocks)}</section>\n"


def blocks_html(blocks: Sequence[Block]) -> str:
    """Blocks in order, pictures that follow each other side by side where there is room."""
    found, row = [], []
    for block in [*blocks, None]:
        if isinstance(block, Picture):
            row.append(picture_html(block))
            continue
        if row:
            found.append(f'<div class="figures">{"".join(row)}</div>\n')
            row = []
        if block is not None:
            found.append(reading_html(block) if isinstance(block, Reading) else table_html(block))
    return "".join(found)


def reading_html(reading: Reading) -> str:
    """What the numbers of a run say."""
    head = f"<h3>{escape(reading.label)}</h3>" if reading.label else ""
    points = "".join(f"<li>{escape(point)}</li>" for point in reading.points)
    return f'<div class="reading">{head}<ul>{points}</ul></div>\n'


def table_html(table: Table) -> str:
    """A table, which scrolls sideways where it is too wide."""
    kind = [f' class="{column_class([row[i] for row in table.rows])}"' for i in range(len(table.columns))]
    head = "".join(f'<th scope="col"{k}>{escape(name)}</th>' for name, k in zip(table.columns, kind, strict=True))
    rows = "".join(
        f"<tr>{''.join(f'<td{k}>{escape(word)}</td>' for word, k in zip(row, kind, strict=True))}</tr>\n"
        for row in table.rows
    )
    title = f'<p class="title">{escape(table.title)}</p>\n'
    return f'{title}<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n'


def column_class(words: Sequence[str]) -> str:
    """How a column is set: names to the left, long ones broken; numbers to the right."""
    if any(len(word) > LONG for word in words):
        return "words"
    return "names" if 2 * sum(word[:1].isalpha() for word in words) > len(words) else "numbers"


def picture_html(picture: Picture) -> str:
    """A figure, inside the file."""
    data, caption = b64encode(picture.png).decode("ascii"), escape(picture.caption)
    kind = ' class="wide"' if picture.wide else ""
    image = f'<img src="data:image/png;base64,{data}" alt="{caption}">'
    return f"<figure{kind}>{image}<figcaption>{caption}</figcaption></figure>\n"
