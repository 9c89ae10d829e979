"""The report as one page: tables, figures and notes in one file that needs no network and no program."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from tools.report.figures import ReportFigure
from tools.report.numbers import Number, ReportTable, Row


def page_html(title: str, about: Sequence[str], tables: Sequence[ReportTable], figures: Sequence[ReportFigure]) -> str:
    """The page. Every text is escaped, pictures are embedded, and its policy allows nothing to be loaded or run.

    Args:
        title: Of the page.
        about: Sentences that stand above everything.
        tables: In order; each number says in its title attribute where it comes from.
        figures: In order.
    """
    style = (files("tools.report.page") / "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    titles = {each.name: each.title for each in tables} | {each.name: each.title for each in figures}
    links = "".join(f'<a href="#{escape(name)}">{escape(each)}</a>' for name, each in titles.items())
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        "<p>Values in percent. Rest the pointer on a number to see which file and rows it comes from.</p>",
        f"<nav>{links}</nav>",
        *(f"<section>{part}</section>" for part in (*map(_table, tables), *map(_figure, figures))),
        "<details open><summary>Notes</summary><ul>" if about else "",
        *(f"<li>{escape(each)}</li>" for each in about),
        "</ul></details>" if about else "",
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _table(table: ReportTable) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (table.first, *table.columns))
    body = "\n".join(_rows(table))
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f'<h2 id="{escape(table.name)}">{escape(table.title)}</h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def _rows(table: ReportTable) -> Iterator[str]:
    group = ""
    for row in table.rows:
        if row.group and row.group != group:
            yield f'<tr><th class="group" colspan="{len(table.columns) + 1}">{escape(row.group)}</th></tr>'
        group = row.group
        cells = "".join(_cell(number) for number in row.numbers)
        yield f'<tr class="{_kind(row)}"><th scope="row">{escape(row.label)}</th>{cells}</tr>'


def _kind(row: Row) -> str:
    present = [number for number in row.numbers if number is not None]
    if any(number.is_quoted for number in present):
        return "quoted"
    return "difference" if any(number.is_difference for number in present) else "own"


def _cell(number: Number | None) -> str:
    if number is None:
        return "<td>–</td>"
    where = escape("\n".join([number.whole_text, *map(str, number.origins)]))
    interval = f"<small>{escape(number.interval)}</small>" if number.interval else ""
    return f'<td title="{where}">{escape(number.text)}{interval}</td>'


def _figure(figure: ReportFigure) -> str:
    picture = base64.b64encode(figure.png).decode("ascii")
    where = escape("\n".join(figure.files))
    # The picture has 150 dots an inch, a page 96: bytes 16 to 20 of a PNG file are its width.
    width = int.from_bytes(figure.png[16:20], "big") * 96 // 150
    return (
        f'<h2 id="{escape(figure.name)}">{escape(figure.title)}</h2><figure>'
        f'<img src="data:image/png;base64,{picture}" width="{width}" alt="{escape(figure.title)}" title="{where}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )
