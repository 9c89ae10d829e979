import base64
import hashlib
import json
from html.parser import HTMLParser

import pytest


class Page(HTMLParser):
    """The elements of a page that hold text, and its policy.

    Attributes:
        scripts: Type (empty for programs), id and text of each script.
        styles: Texts of the styles.
        policy: Of the content, by directive.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=False)
        self.scripts, self.styles, self.policy, self.tags, self._inside = [], [], {}, [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self._inside = tag
        if tag == "script":
            self.scripts.append([values.get("type", ""), values.get("id", ""), ""])
        elif tag == "style":
            self.styles.append("")
        elif values.get("http-equiv") == "Content-Security-Policy":
            parts = (part.split(maxsplit=1) for part in values["content"].split(";"))
            self.policy = {name: value.strip() for name, value in parts}

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1][2] += data
        elif self._inside == "style":
            self.styles[-1] += data

    @property
    def program(self):
        (text,) = (text for kind, _, text in self.scripts if not kind)
        return text

    @property
    def contents(self):
        (text,) = (text for _, name, text in self.scripts if name == "contents")
        return json.loads(text)


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.fixture
def read_page():
    return lambda path: Page(path.read_text("utf-8"))


@pytest.fixture
def digest_of():
    return digest
