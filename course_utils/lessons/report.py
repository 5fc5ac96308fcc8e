"""The HTML report of a run: a page per lesson and one index, self-contained, with nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from .run import LessonRun

# What makes a browser fetch something; a link (<a href>) only does so when a reader clicks on it.
REMOTE = re.compile(
    r"""<(?:script|link|img|iframe|source|video|audio|embed|object)\b[^>]*?(?:src|href|data)\s*=\s*["']?(?:https?:)?//[^>]*>"""
    r"""|@import\s+[^;]*//[^;]*;|url\(\s*["']?(?:https?:)?//[^)]*\)""",
    re.IGNORECASE,
)
DISPLAY_MATH = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", re.DOTALL)
INLINE_MATH = re.compile(r"(?<![\\$\w])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\w$])|\\\((.+?)\\\)")
LITERAL = re.compile(r"(<pre\b.*?</pre>|<code\b.*?</code>|<style\b.*?</style>|<img\b[^>]*>)", re.DOTALL | re.IGNORECASE)


def write_page(notebook: NotebookNode, path: Path, *, title: str) -> Path:
    """Renders an executed notebook as one HTML file. Links to other lessons lead to their pages."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic")
    body, _ = exporter.from_notebook_node(notebook)
    body = without_remote(math_to_mathml(body))
    body = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', body)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(title, f'<p><a href="../index.html">All lessons</a></p>\n{body}'), encoding="utf-8")
    return path


def write_figures(notebook: NotebookNode, output: Path, slug: str) -> list[tuple[str, str]]:
    """Saves every PNG output as output/figures/NN/k.png; returns (path relative to output, alt text) in order."""
    folder = output / "figures" / slug[:2]
    for old in folder.glob("*.png"):
        old.unlink()
    figures: list[tuple[str, str]] = []
    for data, alt in images(notebook):
        path = folder / f"{len(figures) + 1:02d}.png"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        figures.append((path.relative_to(output).as_posix(), alt))
    return figures


def images(notebook: NotebookNode) -> list[tuple[bytes, str]]:
    """(PNG bytes, alt text or "") of every picture among the outputs of a notebook."""
    found: list[tuple[bytes, str]] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            picture = output.get("data", {}).get("image/png")
            if picture:
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                found.append((base64.b64decode(picture), alt))
    return found


def write_index(results: Iterable[LessonRun], output: Path, *, preset: str) -> Path:
    """Writes output/index.html: status and minutes per lesson, links to notebooks and pages, and the figures."""
    rows, sections = [], []
    for result in results:
        name = html.escape(f"{result.slug[:2]} {result.title}")
        link = f'<a href="{result.page}">{name}</a>' if result.page else name
        notebook = f'<a href="{result.notebook}">notebook</a>' if result.notebook else "none"
        message = f"<pre>{html.escape(_tail(result.message))}</pre>" if result.message else ""
        rows.append(
            f'<tr><td>{link}</td><td class="status-{result.status}">{result.status}</td>'
            f"<td>{result.seconds / 60:.1f}</td><td>{len(result.figures)}</td><td>{notebook}</td></tr>"
        )
        pictures = "\n".join(
            f'<figure><a href="{path}"><img src="{path}" loading="lazy" alt="{html.escape(alt, quote=True)}"></a>'
            f"<figcaption>{html.escape(alt)}</figcaption></figure>"
            for path, alt in result.figures
        )
        if message or pictures:
            sections.append(f'<section><h2>{name}</h2>{message}<div class="figures">{pictures}</div></section>')
    table = "\n".join(rows)
    body = f"""<h1>Continual Learning, Hands-On</h1>
<p>One run of the course in the <code>{html.escape(preset)}</code> preset.</p>
<table><thead><tr><th scope="col">lesson</th><th scope="col">status</th><th scope="col">minutes</th>
<th scope="col">figures</th><th scope="col">executed</th></tr></thead>
<tbody>
{table}
</tbody></table>
{"".join(sections)}"""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "index.html"
    path.write_text(document("Continual Learning, Hands-On: report", body), encoding="utf-8")
    return path


def remote_assets(page: str) -> list[str]:
    """Everything in an HTML page that a browser would fetch from the network on opening it."""
    return [match[0] for match in REMOTE.finditer(page)]


def without_remote(page: str) -> str:
    """The page without scripts and remote assets; a remote picture leaves its alt text behind."""
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL | re.IGNORECASE)

    def replacement(match: re.Match[str]) -> str:
        alt = re.search(r'alt="([^"]*)"', match[0])
        return alt[1] if alt else ""

    return REMOTE.sub(replacement, page)


def math_to_mathml(page: str) -> str:
    """TeX between dollars becomes MathML, which browsers draw; what cannot be converted stays TeX, as code."""
    pieces = LITERAL.split(page)
    for number in range(0, len(pieces), 2):  # odd pieces are literal
        piece = DISPLAY_MATH.sub(lambda match: _mathml(match[1] or match[2], "block"), pieces[number])
        pieces[number] = INLINE_MATH.sub(lambda match: _mathml(match[1] or match[2], "inline"), piece)
    return "".join(pieces)


def document(title: str, body: str) -> str:
    """A whole HTML page around `body`, with the report's style in it. `title` is plain text."""
    from pygments.formatters import HtmlFormatter

    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{light}
@media (prefers-color-scheme: dark) {{
{dark}
}}
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def _mathml(escaped: str, display: str) -> str:
    from latex2mathml.converter import convert

    tex = html.unescape(escaped).strip()
    try:
        return convert(tex, display=display)
    except Exception:  # the converter raises a different error for each kind of TeX that it lacks
        return f"<code>{html.escape(tex)}</code>"


def _tail(message: str, lines: int = 30) -> str:
    """The end of a long message, where the error is, without terminal colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message)
    return "\n".join(plain.splitlines()[-lines:])
