"""Showing things to the reader: HTML in a notebook, the same words as plain text everywhere else.

Colours are only ever a second signal beside a symbol and a word, and no background is set,
so that the boxes read the same on light and dark pages and to colour-blind readers.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from course_utils.screen import in_notebook

# kind -> (symbol, colour); the colours keep a contrast of at least 3:1 on white and on black
KINDS: dict[str, tuple[str, str]] = {
    "passed": ("✓", "#009E73"),
    "partly": ("◐", "#B8860B"),
    "wrong": ("✗", "#D55E00"),
    "refused": ("✗", "#D55E00"),
    "not attempted": ("○", "#808080"),
    "borrowed": ("↪", "#8A6FDF"),
    "hint": ("?", "#0072B2"),
    "info": ("i", "#0072B2"),
    "stand-in": ("!", "#D55E00"),
}


def show(markup: str, text: str) -> None:
    """Show `markup` in a notebook (with `text` as its plain fallback), or print `text`."""
    if not in_notebook():
        print(text)
        return
    from IPython.display import display

    display({"text/html": markup, "text/plain": text}, raw=True)


def rich(text: str) -> str:
    """Escaped HTML of `text`; `words in backticks` become code, line ends become line breaks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text)).replace("\n", "<br>")


def box(kind: str, title: str, body: str = "") -> str:
    """HTML of a box: a coloured edge, the kind's symbol and `title` in bold, and `body` (HTML) below."""
    symbol, colour = KINDS[kind]
    style = f"border-left:4px solid {colour};padding:.4em .8em;margin:.5em 0"
    head = f'<strong><span style="color:{colour}" aria-hidden="true">{symbol}</span> {rich(title)}</strong>'
    return f'<div style="{style}" role="note">{head}{f"<div>{body}</div>" if body else ""}</div>'


def banner(kind: str, title: str, text: str = "") -> None:
    """Show a box with a title and a few plain words."""
    symbol, _ = KINDS[kind]
    plain = f"{symbol} {title}" + (f"\n  {text}" if text else "")
    show(box(kind, title, rich(text)), plain)


def table_html(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """HTML table; the first column is a row heading, the others are right-aligned."""

    def cell(tag: str, text: str, column: int) -> str:
        align = "left" if column == 0 else "right"
        return f'<{tag} style="text-align:{align};padding:.2em .8em">{rich(text)}</{tag}>'

    head = "".join(cell("th", text, column) for column, text in enumerate(header))
    body = "".join(
        "<tr>" + "".join(cell("td" if column else "th", text, column) for column, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    below = f'<caption style="caption-side:bottom;text-align:left">{rich(caption)}</caption>' if caption else ""
    return f"<table>{below}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """The same table for a terminal."""
    lines = [[word.replace("\n", " · ") for word in line] for line in [header, *rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "  ".join(
            word.ljust(width) if column == 0 else word.rjust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*text, caption] if caption else text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """Show a table; every entry is a string."""
    show(table_html(header, rows, caption), table_text(header, rows, caption))


def source(text: str) -> None:
    """Show Python source: highlighted in a notebook, printed elsewhere."""
    if not in_notebook():
        print(text)
        return
    from IPython.display import Code, display

    display(Code(text, language="python"))
