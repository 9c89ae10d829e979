"""The command: files that it writes, and the page in a browser."""

import json
import re
from html.parser import HTMLParser

import pytest
from browser import Browser, find_browser
from PIL import Image
from report_runs import STEPS, best_of_n, process_bench, whole, write

from tools.report.command import find_entries, main
from tools.report.step_figures import place_figure, ranking_figure

HOSTILE = '</style><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">&amp; "quoted" \u202e'
NAME = '<script>alert(1)</script> "&amp;'


class Cells(HTMLParser):
    """The cells of a page: their title attribute and text."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "td":
            self.cells.append([dict(attributes).get("title", ""), ""])

    def handle_data(self, data):
        if self.cells and self.tags[-1][0] in ("td", "small"):
            self.cells[-1][1] += data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a report")
    prm, orm = whole(folder / "prm_test", 0.5), whole(folder / "orm_test", 0.375, critic="ORM")
    assert main([f"{NAME}={prm}", str(orm), "--output", str(folder / "report"), "--title", HOSTILE]) == 0
    return folder / "report"


def test_files(report):
    names = {path.name for path in (report / "tables").iterdir()}
    tables = ("table2", "table3", "table4", "table6", "step_measures")
    assert names == {f"{name}.{ending}" for name in tables for ending in ("md", "csv", "tex")}
    pictures = {path.stem for path in (report / "figures").iterdir()}
    assert pictures == {"best_of_n", "step_index", "reliability", "step_scores", "step_ranking"}
    for path in (report / "figures").iterdir():
        with Image.open(path) as picture:
            # Something is drawn: not all of one colour.
            assert len(picture.convert("L").getcolors(256)) > 20
    assert set(json.loads((report / "origins.json").read_text())["figures"]) == pictures
    text = (report / "report.md").read_text()
    assert text.count("### ") == len(tables) + 1
    assert "16 candidates of P-8B, 3 solutions of VisualProcessBench." in text


def test_the_page_is_one_file_and_every_number_says_where_it_comes_from(report):
    text = (report / "report.html").read_text()
    page = Cells(text)
    sources = [values["src"] for tag, values in page.tags if "src" in values]
    assert len(sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    numbers = [(title, cell) for title, cell in page.cells if re.search(r"\d", cell)]
    assert len(numbers) > 200
    assert all(re.search(r"(\.json#/\w+|arXiv [\d.]+# )", title) for title, _ in numbers)


def test_results_without_benchmarks_or_without_single_steps(tmp_path):
    write(tmp_path / "steps_test", steps=process_bench(0.5))
    assert main([str(tmp_path / "steps_test"), "--output", str(tmp_path / "report")]) == 0
    assert {path.stem for path in (tmp_path / "report" / "tables").iterdir()} == {"table3", "step_measures"}
    # Without the scores of steps there are no curves and histograms.
    assert {path.stem for path in (tmp_path / "report" / "figures").iterdir()} == {"step_index", "reliability"}


def test_refusals_end_with_status_2(tmp_path, capsys):
    one = write(tmp_path / "a_test", best=best_of_n(0.5))
    other = write(tmp_path / "b_test", best=best_of_n(0.5, of_each={"split": "testmini"}))
    assert main([str(one), str(other), "--output", str(tmp_path / "report")]) == 2
    assert "MMMU: the splits are test and testmini" in capsys.readouterr().err
    assert not (tmp_path / "report" / "report.html").exists()
    assert main([str(one), str(other), "--allow", "questions", "--output", str(tmp_path / "report")]) == 0
    assert "a and b: MMMU: the splits are test and testmini." in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize("name", ["candidate_scores.jsonl", "process_bench_scores.jsonl"])
def test_an_empty_file_of_scores_is_refused(name, tmp_path, capsys):
    folder = write(whole(tmp_path / "a_test"))
    (folder / name).write_text("")
    assert main([str(folder), "--output", str(tmp_path / "report")]) == 2
    assert f"{name} holds no scores" in capsys.readouterr().err


def test_scores_of_an_advantage_model(tmp_path):
    steps = [row | {"step_scores": [2 * score - 1 for score in row["step_scores"]]} for row in STEPS]
    entries = find_entries([str(write(whole(tmp_path / "advantage_test"), step_scores=steps))], are_seeds=False)
    assert [make(entries).name for make in (place_figure, ranking_figure)] == ["step_index", "step_ranking"]


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on this machine (PATH)")
def test_in_a_browser(report, tmp_path):
    with Browser(tmp_path / "profile", 1000, 900) as browser:
        browser.open(report / "report.html")
        assert browser.messages == []
        assert [address for address in browser.requests if not address.startswith(("data:", "file:"))] == []
        assert browser.run("window.hacked") is None
        assert browser.text("h1") == HOSTILE
        # Every picture is decoded, and nothing is wider than the window.
        assert browser.run("[...document.images].every(each => each.complete && each.naturalWidth > 300)")
        for width in (1000, 420):
            browser.resize(width, 900)
            assert browser.run("document.documentElement.scrollWidth") <= width
        dark = "matchMedia('(prefers-color-scheme: dark)').matches"
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            assert browser.run(dark) == (scheme == "dark")
            colours = browser.run(
                "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
            )
            ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
            assert (ink > paper) == (scheme == "dark")
