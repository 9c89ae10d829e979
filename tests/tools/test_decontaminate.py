import json

import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image, ImageDraw

from datamodules.benchmarks.table import encode_image, write_table
from tools.data import main

QUESTION = "In the figure the angle at B is twice the angle at A. How large is the angle at C?"
OTHER = "A shop sells pens at 3 and pencils at 2. How much do five pens and four pencils cost together?"


def figure(seed):
    picture = Image.new("RGB", (120, 90), "white")
    pen = ImageDraw.Draw(picture)
    for number in range(5):
        pen.line((7 * seed * number % 110, 20 * number, 13 * seed % 90 + number, 85), fill="black", width=3)
        pen.ellipse((11 * seed % 100, 9 * number, 11 * seed % 100 + 15, 9 * number + 15), fill="blue")
    return picture


def row(question, image):
    steps = [{"step": "a", "score": 1.0, "num_mc_correct": 4, "num_mc_total": 4}]
    return {"image": image, "question": question, "answer": "1", "response": "a", "steps_with_score": steps}


ROWS = [
    row(QUESTION, "other.png"),  # the words alone
    row("How many lines are there in this figure, and how many discs?", "same.png"),  # the picture alone
    row(f"Solve it. {QUESTION.upper()} Give reasons.", "same.jpg"),  # both
    row(OTHER, "other.png"),  # nothing
    row("Who?", "missing.png"),
]


@pytest.fixture
def world(tmp_path, write_lines):
    """Training rows, and LogicVista and VisualProcessBench with the figure of some of them."""
    (tmp_path / "data").mkdir()
    figure(1).save(tmp_path / "data" / "same.png")
    figure(1).resize((240, 180)).save(tmp_path / "data" / "same.jpg", quality=80)
    figure(4).save(tmp_path / "data" / "other.png")
    write_lines(tmp_path / "data" / "algebra.jsonl", ROWS)
    vista = {"index": "7", "image": encode_image(figure(1)), "question": QUESTION, "answer": "A", "skill": "spatial"}
    (tmp_path / "benchmarks").mkdir()
    write_table(tmp_path / "benchmarks" / "LogicVista.tsv", [vista])
    return tmp_path


def run(world, *arguments, benchmarks=True):
    given = ["decontaminate", world / "data" / "algebra.jsonl", "--json", world / "report.json", *arguments]
    status = main(list(map(str, [*given, *(["--benchmarks", world / "benchmarks"] if benchmarks else [])])))
    return status, json.loads((world / "report.json").read_text())


def test_the_report(world, capsys):
    status, report = run(world)
    assert status == 1  # a picture is missing
    assert report["rows"] == {"algebra": 5}
    assert report["benchmark_questions"] == 1
    found = {match["row"].rpartition(":")[2]: match for match in report["matches"]}
    assert set(found) == {"1", "2", "3"}
    assert found["1"]["text"] == ["LogicVista/7", 1.0]
    assert found["1"]["picture"] is None
    assert found["2"]["text"] is None
    assert found["2"]["picture"][0] == "LogicVista/7"
    assert found["2"]["picture"][1] == 0
    assert found["3"]["text"] == ["LogicVista/7", 1.0]
    assert found["3"]["picture"][1] <= 8
    assert len(report["unreadable"]) == 1
    printed = capsys.readouterr().out
    assert "missing.png" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("algebra")]
    assert line.split()[1:] == ["5", "2", "2", "1", "3"]


@pytest.mark.parametrize(("drop", "kept"), [("any", "45"), ("text", "245"), ("picture", "145"), ("both", "1245")])
def test_the_copy(world, drop, kept):
    run(world, "--drop", drop, "--output", world / "clean")
    lines = (world / "clean" / "algebra.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [ROWS[int(number) - 1] for number in kept]


@pytest.mark.parametrize("folder", ["data", "."])
def test_a_folder_that_is_there_is_not_replaced(world, folder, capsys):
    """It may be the rows' own, with their pictures."""
    before = sorted(world.rglob("*"))
    given = ["decontaminate", world / "data" / "algebra.jsonl", "--benchmarks", world / "benchmarks"]
    assert main(list(map(str, [*given, "--output", world / folder]))) == 2
    assert "is there already; give another folder" in capsys.readouterr().err
    assert sorted(world.rglob("*")) == before


def test_parquet_with_embedded_pictures(world, capsys):
    rows = [
        {**each, "image": {"bytes": (world / "data" / each["image"]).read_bytes(), "path": each["image"]}}
        for each in ROWS[:4]
    ]
    Dataset.from_list(rows).to_parquet(world / "rows.parquet")
    given = ["decontaminate", world / "rows.parquet", "--benchmarks", world / "benchmarks", "--output", world / "clean"]
    assert main(list(map(str, given))) == 0
    assert pq.read_table(world / "clean" / "rows.parquet").to_pylist() == [rows[3]]
    assert "rows.parquet: 1 rows" in capsys.readouterr().out


def test_visual_process_bench(world, write_lines):
    judged = {
        "image": ["same.png"],
        "question": OTHER,
        "answer": "1",
        "response": {"steps": ["a", "b"], "process_correctness": [1, -1]},
        "policy_model": "p",
        "data_source": "MMMU",
    }
    write_lines(world / "data" / "test.jsonl", [judged, judged])
    _, report = run(world, "--visual-process-bench", world / "data", benchmarks=False)
    assert report["benchmark_questions"] == 1  # both solutions are of one question
    assert {match["row"].rpartition(":")[2] for match in report["matches"]} == {"2", "3", "4"}


def test_nothing_to_compare_with(world, capsys):
    assert main(["decontaminate", str(world / "data" / "algebra.jsonl")]) == 2
    assert "give --benchmarks, --visual-process-bench, or both" in capsys.readouterr().err
