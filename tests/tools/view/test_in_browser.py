"""The page in a browser: filters, keys and hostile texts, driven as a person would."""

import json

import pytest
from browser import Browser, find_browser
from PIL import Image

from tools.view.command import write_page
from tools.view.contents import Question, Solution

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on this machine (PATH)")

MARKUP = '</script><img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script><svg onload=alert(1)>'
UNSEEN = "a\0\0\0b\u202etxet"
LONG = "long " * 20_000


def solution(name, answer_class, is_right, *scores, steps=None, **more):
    texts = steps or [f"Step {place} of {name}." for place in range(len(scores))]
    values = {"answer": f"answer {answer_class}", "answer_class": answer_class, "is_right": is_right, **more}
    return Solution(name, texts, scores=list(scores), score=sum(scores) / len(scores), **values)


def questions(picture):
    """Sixty questions, most of them plain; the model and the vote are right or wrong as the ids say."""
    plain = [
        Question("MMMU", "A", f"plain {n}", f"Question {n} <image>", ["x"], [picture], [solution("0", 0, True, 0.9)])
        for n in range(54)
    ]
    vote_right = [solution("0", 0, False, 0.9, 0.2), solution("1", 1, True, 0.5), solution("2", 1, True, 0.4)]
    model_right = [solution("0", 0, True, 0.9), solution("1", 1, False, 0.5), solution("2", 1, False, 0.4)]
    hostile = [solution(MARKUP, 0, True, 0.7, 0.6, 0.5, 0.1, steps=[MARKUP, UNSEEN, LONG, "end"], answer=MARKUP)]
    labelled = Solution("p", ["a", "b", "c"], scores=[0.9, 0.9, 0.1], labels=[1, -1, 0], score=0.6, is_right=False)
    counts = [(4, 4), (0, 4), (0, 0)]
    annotated = solution("row 1", None, False, 0.9, 0.8, 0.1, steps=["a", "b", "c"], mc=[1.0, 0.0, None], counts=counts)
    raw = [Solution(f"row {n}", ["a"], mc=[mc], is_right=mc > 0.5) for n, mc in enumerate([0.25, 0.75])]
    return [
        *plain,
        Question("rows", "s", "annotated", "How many?", (), (), [annotated]),
        Question("raw rows", "s", "two rows", "How many?", (), (), raw),
        Question("MathVista", "B", "only vote", "Who is right?", ["x"], (), vote_right),
        Question("MathVista", "B", "only model", "Who is right?", ["x"], (), model_right),
        Question(MARKUP, MARKUP, MARKUP, MARKUP, [MARKUP], (), hostile),
        Question("VisualProcessBench", "MMMU", "labelled", "Why?", (), (), [labelled]),
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a page & its pictures #1")
    Image.new("RGB", (64, 48), "teal").save(folder / "teal.png")
    write_page(folder / "page 100%.html", "A title", questions(folder / "teal.png"))
    return folder / "page 100%.html"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(tab, page):
    tab.messages.clear()
    tab.requests.clear()
    tab.open(page)
    return tab


def tally(tab):
    return tab.text("#tally").split(" ")[0]


def origin(tab):
    return tab.text("#question .origin")


def test_opens_without_a_word_and_without_a_network(opened):
    assert opened.messages == []
    assert all(address.startswith("file:") for address in opened.requests)
    assert tally(opened) == "60"
    # Only rows in view are in the document, and pictures are those of these rows.
    assert 10 < opened.count(".row") < 40
    opened.until("[...document.images].every((image) => image.complete && image.naturalWidth === 64)")
    assert opened.count("#question .picture img") == 1
    assert opened.text("#question .score") == "0.90"
    assert opened.run("document.querySelector('#question .score').className") == "score s9"


def test_filters(opened):
    opened.choose("#disagreement", "only vote right")
    assert (tally(opened), origin(opened)) == ("1", "MathVista · only vote · B")
    # The best solution and the vote are open, each with the scores of its own steps.
    scores = opened.run("[...document.querySelectorAll('.body:not([hidden]) .score')].map((e) => e.textContent)")
    assert scores == ["0.90", "0.20", "0.50"]
    assert opened.run("[...document.querySelectorAll('.worth')].map((e) => e.textContent)") == [
        "0.550",
        "0.500",
        "0.400",
    ]
    opened.choose("#disagreement", "only model right")
    assert origin(opened) == "MathVista · only model · B"
    opened.click("#reset")
    assert tally(opened) == "60"
    opened.choose("#benchmark", "MathVista")
    assert tally(opened) == "2"
    opened.choose("#verdict", "wrong")
    assert (tally(opened), origin(opened)) == ("1", "MathVista · only vote · B")
    opened.click("#reset")
    opened.choose("#source", "MMMU")
    assert origin(opened) == "VisualProcessBench · labelled · MMMU"
    assert opened.run("[...document.querySelectorAll('.label')].map((e) => e.textContent)") == ["✓", "✗", "·"]
    assert opened.count(".step.otherwise") == 1
    opened.click("#reset")
    opened.choose("#disagreement", "step")
    assert tally(opened) == "2"
    opened.click("#reset")
    # Of labels where there are some: step 2 of the labelled solution, and of the others by the model's scores.
    opened.choose("#first-wrong", "1")
    assert (tally(opened), origin(opened)) == ("3", "VisualProcessBench · labelled · MMMU")
    opened.choose("#first-wrong", "3")
    assert tally(opened) == "1"
    assert opened.messages == []


def test_monte_carlo_scores_stand_beside_scores(opened):
    opened.choose("#benchmark", "rows")
    assert origin(opened) == "rows · annotated · s"
    cells = "[...document.querySelectorAll('.body:not([hidden]) .{0}')].map((e) => [e.textContent, e.className])"
    assert opened.run(cells.format("score")) == [["0.90", "score s9"], ["0.80", "score s8"], ["0.10", "score s1"]]
    assert opened.run(cells.format("mc")) == [["4/4", "mc s10"], ["0/4", "mc s0"], ["–", "mc"]]
    # The model takes the second step for right, which no continuation has led to the answer.
    assert opened.count(".step.otherwise") == 1
    assert opened.text(".step.otherwise .text") == "b"
    opened.choose("#verdict", "mixed")
    assert tally(opened) == "0"
    opened.click("#reset")
    opened.choose("#verdict", "mixed")
    assert origin(opened) == "raw rows · two rows · s"
    assert opened.run("[...document.querySelectorAll('.worth')].map((e) => e.textContent)") == ["0.750", "0.250"]


def test_keys(opened):
    opened.press("j")
    opened.press("j")
    assert origin(opened) == "MMMU · plain 2 · A"
    assert opened.run("location.hash") == "#3"
    opened.press("k")
    assert opened.run("document.querySelector('[aria-selected=true]').id") == "row-1"
    assert opened.run("document.getElementById('list').getAttribute('aria-activedescendant')") == "row-1"
    opened.press("G")
    assert origin(opened) == "VisualProcessBench · labelled · MMMU"
    opened.run("document.getElementById('list').focus()")
    opened.press("Home")
    opened.press("ArrowDown")
    assert origin(opened) == "MMMU · plain 1 · A"
    opened.press("1")
    assert opened.run("document.querySelector('.headline').getAttribute('aria-expanded')") == "false"
    opened.press("e")
    assert opened.run("document.querySelector('.headline').getAttribute('aria-expanded')") == "true"
    opened.press("z")
    opened.until("document.getElementById('zoom').open && document.querySelector('#zoomed img').naturalWidth === 64")
    opened.press("j")  # not behind the dialog
    opened.run("document.getElementById('zoom').close()")
    assert origin(opened) == "MMMU · plain 1 · A"
    opened.press("?")
    assert opened.run("document.getElementById('keys').open")
    opened.run("document.getElementById('keys').close()")
    opened.press("d")
    assert tally(opened) == "2"
    opened.press("r")
    assert tally(opened) == "60"


def test_search(opened):
    opened.press("/")
    assert opened.run("document.activeElement.id") == "search"
    for key in "WHO step vote":
        opened.press(key)
    opened.until("document.getElementById('tally').textContent.startsWith('1 of')")
    assert origin(opened) == "MathVista · only vote · B"
    opened.press("Escape")
    assert opened.run("document.activeElement.id") == "list"


def test_hostile_texts_are_texts(opened):
    opened.choose("#benchmark", MARKUP)
    assert tally(opened) == "1"
    opened.press("e")
    opened.press("e")
    assert origin(opened) == " · ".join([MARKUP] * 3)
    assert opened.text("#question .asked .text") == MARKUP
    assert opened.text(".step:nth-child(2) .text") == MARKUP
    assert opened.text(".step:nth-child(3) .text") == "aU+0000 × 3bU+202Etxet"
    assert opened.count("#question .text *:not(.unseen):not(.more)") == 0
    assert len(opened.text(".step:nth-child(4) .text")) < 5000
    opened.click(".more")
    assert opened.text(".step:nth-child(4) .text") == LONG
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    assert opened.run("window.hacked") is None
    assert opened.messages == []
    assert not [address for address in opened.requests if not address.startswith("file:")]


def test_the_policy_stops_what_the_page_does_not_do(opened):
    """Markup that got into the page all the same would do nothing."""
    markup = json.dumps("<img src=x onerror=hacked=1><b style=color:red>x</b>")
    opened.run(f"document.getElementById('question').innerHTML = {markup}")
    opened.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 1'}))")
    opened.run("fetch('file:///etc/hostname').catch(() => 0)")
    opened.until("true")
    assert opened.run("window.hacked") is None
    assert opened.run("getComputedStyle(document.querySelector('#question b')).color") != "rgb(255, 0, 0)"
    assert any("Content Security Policy" in message for message in opened.messages)


@pytest.mark.parametrize("width", [1280, 400])
def test_dark_light_and_narrow(opened, width):
    opened.resize(width, 800)
    papers = []
    for scheme in ("light", "dark"):
        opened.prefer(scheme)
        papers.append(opened.run("getComputedStyle(document.body).backgroundColor"))
    opened.press("t")
    papers.append(opened.run("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(251, 251, 250)", "rgb(22, 24, 27)", "rgb(251, 251, 250)"]
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    opened.resize(1280, 800)


def test_embedded(tab, page, tmp_path):
    write_page(tmp_path / "one.html", "One file", questions(page.parent / "teal.png"), embed=True)
    assert [path.name for path in tmp_path.iterdir()] == ["one.html"]
    tab.messages.clear()
    tab.open(tmp_path / "one.html")
    tab.until("document.querySelector('#question .picture img').naturalWidth === 64")
    assert tab.messages == []
