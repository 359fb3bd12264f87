"""Pieces of HTML for a report."""

import base64
import html
import io

from matplotlib.figure import Figure

HINT = '<p class="hint" hidden>The table scrolls sideways: there are more columns →</p>'


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
    """Return figures side by side; nothing if there are none."""
    return f'<div class="{kind}">{"".join(figures)}</div>' if figures else ""


def paragraph(words):
    return f"<p>{text(words)}</p>"


def folded(summary, content, is_open=False):
    """Return content below a line that opens and closes it."""
    return f"<details{' open' * is_open}><summary>{text(summary)}</summary>{content}</details>"


def make_table(caption, headers, rows):
    """Return a sortable table, with a hint where it is wider than the page.

    A cell is a value, (value to sort by, text), or (value, text, whether to mark it as the best).
    """
    head = "".join(f'<th scope="col"><button type="button">{text(header)}</button></th>' for header in headers)
    lines = "".join(f"<tr>{''.join(map(make_cell, row))}</tr>" for row in rows)
    caption = text(caption)
    whole = (
        f"<table><caption><span>{caption}</span></caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    )
    return f'{HINT}<div class="scroll" role="region" aria-label="{caption}" tabindex="0">{whole}</div>'


def make_cell(cell):
    value, shown, best = (*cell, False)[:3] if isinstance(cell, tuple) else (cell, cell, False)
    value, shown = ("" if part is None else text(part) for part in (value, shown))
    return f'<td data-value="{value}">{f"<strong>{shown}</strong>" if best else shown}</td>'


def of_cell(cell, digits=1):
    """Return a scripts.groups.Cell as a cell of `make_table`."""
    return cell.mean, cell.text(digits=digits), cell.best
