"""Pieces of HTML for a report."""

import base64
import html
import io

from matplotlib.figure import Figure


def text(value):
    return html.escape(str(value))


def data_uri(png):
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def picture(source, alt, caption=""):
    """Return a <figure> of a Figure, or of the bytes of a PNG file."""
    if isinstance(source, Figure):
        buffer = io.BytesIO()
        source.savefig(buffer, format="png", dpi=110)
        source = buffer.getvalue()
    caption = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{data_uri(source)}" alt="{text(alt)}">{caption}</figure>'


def grid(figures, kind="grid"):
    return f'<div class="{kind}">{"".join(figures)}</div>'


def lacking(file, maker):
    """Return a paragraph for a section without data: no run has the file, which the command writes."""
    return f"<p>No run has {file}. The command {maker} writes it.</p>"


def make_table(caption, headers, rows):
    """Return a sortable table; a cell is a value, or (value to sort by, text)."""
    head = "".join(f'<th scope="col"><button type="button">{text(header)}</button></th>' for header in headers)
    lines = []
    for row in rows:
        cells = [cell if isinstance(cell, tuple) else (cell, cell) for cell in row]
        values = [("" if value is None else value, "" if shown is None else shown) for value, shown in cells]
        lines.append("".join(f'<td data-value="{text(value)}">{text(shown)}</td>' for value, shown in values))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    caption = f"<caption>{text(caption)}</caption>"
    whole = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{whole}</div>'
