"""The gallery's figures: its examples run while the site is built, in the folder of the runs that they open."""

import contextlib
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from mkdocs.structure.files import File, Files

PAGE = "gallery.md"
BLOCK = re.compile(r"^## (?P<title>.+?)\n(?P<text>.*?)^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
PICTURES = "<!-- pictures -->"


def on_files(files: Files, config: Any) -> Files:
    """The site's files, and the figures among them."""
    page = files.get_file_from_path(PAGE)
    if page is not None:
        for name, content in drawn(page.content_string, Path(config.docs_dir) / "gallery").items():
            files.append(File.generated(config, f"gallery/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The gallery with its figures: above the code that draws each, and all of them on top."""
    if page.file.src_uri != PAGE:
        return markdown
    titles = [found["title"] for found in BLOCK.finditer(markdown)]
    linked = (f"[![{title}](gallery/{file_name(title)})](#{slug(title)})" for title in titles)
    markdown = markdown.replace(PICTURES, f'<div class="gallery" markdown>\n{" ".join(linked)}\n</div>')
    return BLOCK.sub(with_figure, markdown)


def with_figure(found: re.Match[str]) -> str:
    """A section with its figure."""
    image = f"![{found['title']}](gallery/{file_name(found['title'])})"
    return f"## {found['title']}\n{found['text']}{image}\n\n```python\n{found['code']}```"


def drawn(markdown: str, folder: Path) -> dict[str, bytes]:
    """File name -> figure, of every section; what comes before the first one is run before them."""
    names: dict[str, Any] = {}
    found: dict[str, bytes] = {}
    begin = re.search(r"^```python\n(.*?)^```$", markdown, re.DOTALL | re.MULTILINE)
    with contextlib.chdir(folder), matplotlib.rc_context({"backend": "agg"}):
        exec(begin[1] if begin else "", names)
        for section in BLOCK.finditer(markdown):
            exec(compile(section["code"], f"{PAGE}, {section['title']}", "exec"), names)
            name = file_name(section["title"])
            found[name] = animated(names["animation"]) if name.endswith(".gif") else png(plt.gcf())
            plt.close("all")
    return found


def png(figure: Any) -> bytes:
    """A figure as it is saved."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=130, bbox_inches="tight")
    return target.getvalue()


def animated(animation: Any) -> bytes:
    """An animation as a GIF."""
    with tempfile.TemporaryDirectory() as folder:
        animation.save(Path(folder) / "animation.gif", writer="pillow", dpi=90)
        return (Path(folder) / "animation.gif").read_bytes()


def slug(title: str) -> str:
    """What a title is called in a link."""
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


def file_name(title: str) -> str:
    """What its figure is called."""
    return f"{slug(title)}.{'gif' if title == 'Moving' else 'png'}"
