"""Data cards as HTML pages, with a contact sheet of the reader's own images beside the text.

    cards.write_card("gtsrb", root)    # this is `course data card gtsrb`

No real picture may be kept in the project where its publisher gives no licence for it. So the page is made on the
reader's machine, from the reader's copy, in a folder that git ignores.
"""

from __future__ import annotations

import base64
import html
import io
import mimetypes
import os
import re
from pathlib import Path

from course_utils import datasets
from course_utils.lessons import report

PER_CLASS, COLUMNS = 4, 8  # two classes a row: narrow enough for two sheets beside each other
SIDE = 64  # pixels; small images are enlarged by a whole factor up to this height
SOURCES = {
    "local": "real images, read from files on this machine",
    "bundled": "real images, shipped with a library",
    "standin": "not real: drawn by the course",
}


def write_card(name: str, root: Path) -> Path:
    """Write a data set's card as one page, `build/data/NAME.html` of the checkout `root`; returns its path.

    The page holds the text and the pictures of `data/NAME.md`, then a contact sheet of the real images if they are on
    this machine, beside the stand-in's if there is one. Without real images it says how to get them. Nothing is
    downloaded, and the page loads nothing: pictures are inside it, and it runs no script.

    Raises ValueError for a name that the course does not have, FileNotFoundError if the card or one of its pictures is
    missing, and DataCorrupt for damaged data.
    """
    if name not in datasets.names():
        raise ValueError(f"unknown data set {name!r}; the course has {', '.join(datasets.names())}")
    source = root / "data" / f"{name}.md"
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing; it is part of the course, so restore it from the repository")
    path = root / "build" / "data" / f"{name}.html"
    body = report.without_remote(_text(source, path.parent) + _contact_sheets(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.document(f"{name}: data card", body), encoding="utf-8")
    return path


def _text(source: Path, folder: Path) -> str:
    """The card as HTML. Its pictures move into the page; its links lead from `folder` to the files of the checkout."""
    from nbconvert.filters import markdown2html

    def picture(match: re.Match[str]) -> str:
        file = source.parent / match[2]
        if not file.is_file():
            raise FileNotFoundError(f"{source.name} shows {match[2]}, but there is no {file}")
        kind = mimetypes.guess_type(file.name)[0] or "image/png"
        return f"{match[1]}{_inline(file.read_bytes(), kind)}{match[3]}"

    def link(match: re.Match[str]) -> str:
        target = Path(os.path.relpath(source.parent / match[2], folder)).as_posix()
        return f"{match[1]}{target}{match[3]}"

    page = markdown2html(source.read_text(encoding="utf-8"))
    page = re.sub(r'(<img\b[^>]*?\bsrc=")([^":]+)(")', picture, page)  # a colon: an address, not a file
    return re.sub(r'(<a\b[^>]*?\bhref=")([^":#]+)(")', link, page)


def _contact_sheets(name: str) -> str:
    """The section with the sheets; empty for a stand-in, whose card has its picture already."""
    if name in datasets.STANDINS.values():
        return ""
    sets, missing = [], ""
    try:
        sets.append(datasets.load(name, "local"))
    except datasets.DataNotFound:
        cure = (
            f"Put them in place as shown above; <code>course data card {name}</code> writes this page again."
            if name in datasets.BY_HAND
            else f"<code>course data get {name}</code> fetches them and writes this page again."
        )
        missing = f"<p><strong>The real images are not on this machine.</strong> {cure}</p>"
    if name in datasets.STANDINS:
        sets.append(datasets.load(name, "standin"))
    section = f"<h2>Contact sheet</h2>\n{missing}\n"
    if sets:
        order = html.escape(", ".join(sets[0].classes))
        figures = "\n".join(_figure(data) for data in sets)
        section += f"<p>{PER_CLASS} training images of each class, row by row: {order}.</p>\n"
        section += f'<div class="beside">\n{figures}\n</div>\n'
    return section


def _figure(data: datasets.Dataset) -> str:
    from PIL import Image

    scale = max(1, SIDE // data.image_shape[1])
    sheet = datasets.contact_sheet(data, per_class=PER_CLASS, columns=COLUMNS, scale=scale)
    png = io.BytesIO()
    Image.fromarray(sheet).save(png, format="PNG", optimize=True)
    caption = f"{data.title}: {SOURCES[data.source]}."
    alt = f"Contact sheet of {data.title}, {PER_CLASS} images of each of the {data.num_classes} classes."
    return (
        f'<figure><img src="{_inline(png.getvalue(), "image/png")}" alt="{html.escape(alt, quote=True)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _inline(content: bytes, kind: str) -> str:
    """A file's bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
