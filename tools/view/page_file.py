"""The page as one file: markup, style, program and data, nothing of it from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

STYLES = ("colours.css", "page.css", "solutions.css")
PROGRAMS = ("texts.js", "questions.js", "filters.js", "listing.js", "pictures.js", "details.js", "keys.js", "start.js")


def page_html(title: str, contents: Mapping[str, Any], pictures: Sequence[str], embed: bool) -> str:
    """The page.

    Its Content-Security-Policy lets run the program of the page alone, by its digest, and loads pictures only; so
    markup in a question or a solution could do nothing even if it got into the page as markup, which it does not.

    Args:
        title: Of the page.
        contents: Values of JSON for ``questions.js``.
        pictures: See :attr:`tools.view.pictures.PictureStore.places`.
        embed: Whether they are the pictures themselves.
    """
    style = "\n".join(_part(name) for name in STYLES)
    program = '"use strict";\n(() => {\n' + "\n".join(_part(name) for name in PROGRAMS) + "\n})();\n"
    policy = (
        f"default-src 'none'; script-src '{_digest(program)}'; style-src '{_digest(style)}'; "
        f"img-src {'data:' if embed else chr(39) + 'self' + chr(39) + ' file:'}; base-uri 'none'; form-action 'none'"
    )
    blocks = _data_block("contents", dict(contents) | ({} if embed else {"pictures": list(pictures)}))
    if embed:
        # A block each, which is decoded when its picture is first shown.
        blocks += "".join(
            f'<script type="text/plain" id="picture-{number}">{picture}</script>\n'
            for number, picture in enumerate(pictures)
        )
    parts = {"TITLE": html.escape(title), "POLICY": policy, "STYLE": style, "DATA": blocks, "PROGRAM": program}
    # One pass over the template, so that no mark is looked for in what has been put in.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _part("page.html"))


def _part(name: str) -> str:
    return (files("tools.view.page") / name).read_text("utf-8")


def _data_block(name: str, values: Mapping[str, Any]) -> str:
    r"""A script element of JSON, in which ``<`` is spelt ``\u003c``, so that no text ends it."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
