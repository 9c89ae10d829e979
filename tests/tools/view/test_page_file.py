import json
import re

import pytest

from tools.view.page_file import PROGRAMS, page_html

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> \0 \u202e {{PROGRAM}} &amp;"


@pytest.fixture
def page(tmp_path, read_page):
    contents = {"title": HOSTILE, "range": [0.0, 1.0], "threshold": 0.5, "questions": [{"text": HOSTILE}]}

    def write(embed=False, pictures=("p/a.png",)):
        path = tmp_path / "page.html"
        path.write_text(page_html(HOSTILE, contents, pictures, embed), "utf-8")
        return read_page(path), contents

    return write


def test_no_text_leaves_its_block(page):
    found, contents = page()
    assert found.contents == contents | {"pictures": ["p/a.png"]}
    assert [(kind, name) for kind, name, _ in found.scripts] == [("application/json", "contents"), ("", "")]
    assert [tag for tag, _ in found.tags if tag == "img"] == []
    (raw,) = (text for _, name, text in found.scripts if name == "contents")
    assert "<" not in raw


def test_the_policy_lets_the_program_alone_run(page, digest_of):
    found, _ = page()
    assert found.policy["default-src"] == "'none'"
    assert found.policy["script-src"] == digest_of(found.program)
    assert found.policy["style-src"] == digest_of(found.styles[0])
    assert found.policy["img-src"] == "'self' file:"
    assert (found.policy["base-uri"], found.policy["form-action"]) == ("'none'", "'none'")
    # A policy that stands behind a script does not hold for it.
    names = [tag if values.get("http-equiv") is None else "policy" for tag, values in found.tags]
    assert names.index("policy") < min(names.index("script"), names.index("style"))
    assert not [values for _, values in found.tags if any(name.startswith("on") or name == "style" for name in values)]


def test_embedded_pictures_are_blocks_of_their_own(page):
    found, _ = page(embed=True, pictures=("png AAAA", "jpeg BBBB"))
    assert found.policy["img-src"] == "data:"
    assert "pictures" not in found.contents
    assert [tuple(script) for script in found.scripts[1:3]] == [
        ("text/plain", "picture-0", "png AAAA"),
        ("text/plain", "picture-1", "jpeg BBBB"),
    ]


def test_the_program_makes_no_markup_of_texts_and_asks_for_nothing(page):
    program = page()[0].program
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert forbidden not in program
    assert not re.search(r"https?://|XMLHttpRequest|WebSocket|import\(", program)
    assert len(PROGRAMS) == len(set(PROGRAMS))


def luminance(colour):
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_can_be_read(page, scheme):
    """A contrast of 4.5, as WCAG 2.2 asks for (1.4.3)."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", page()[0].styles[0])
    colours = {name: pair[scheme] for name, *pair in found}
    for shade in range(11):
        assert contrast(colours[f"s{shade}"], colours[f"t{shade}"]) >= 4.5
    for ink in ("ink", "quiet", "accent", "right", "wrong"):
        for paper in ("paper", "raised", "sunken", "chosen"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def test_json_refuses_what_is_no_number(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        page_html("x", {"score": float("nan")}, [], False)
    assert json.loads('"\\u003c"') == "<"
