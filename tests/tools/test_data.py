import io
import json
import re
import zipfile

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Picture
from released_data import (
    AI2D,
    GEOMETRY,
    NLVR2,
    PICTURES,
    TEXT,
    jsonl,
    raw_row,
    split_file,
    write_conversation_release,
    write_raw_release,
)

from tools.data import main
from tools.data_check import MC_BINS, check_data, mc_bin
from tools.data_report import as_json


def check(*arguments):
    return main(["check", "--processes", "1", *map(str, arguments)])


def test_a_release_without_faults(tmp_path, capsys):
    """Counted by hand from the rows of :func:`released_data.raw_rows`."""
    release = write_raw_release(tmp_path)
    assert check(release, "--json", tmp_path / "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    total = report["total"]
    assert total["rows"] == 6
    assert total["bad_rows"] == total["missing"] == total["undecodable"] == total["duplicates"] == 0
    assert total["images"] == 5
    assert total["steps"] == 2 + 3 + 1 + 2 + 2 + 2
    assert total["labels"] == {"+": 10, "-": 2}
    assert total["share_incorrect"] == pytest.approx(2 / 12)
    assert total["steps_per_row"] == 2
    assert total["words_per_step"] == 7  # "Step 0: the angle is 0 degrees."
    assert total["mc"] == {"0": 2, "(0, 1/4]": 3, "(1/4, 1/2]": 1, "(1/2, 3/4]": 1, "(3/4, 1)": 1, "1": 4}
    assert list(report["sources"]) == sorted([AI2D, GEOMETRY, NLVR2, TEXT])
    assert report["sources"][AI2D]["labels"] == {"+": 5, "-": 1}
    assert report["sources"][NLVR2]["images"] == 2
    assert report["bad_rows"] == report["duplicates"] == []
    printed = capsys.readouterr().out
    assert "incorrect %" in printed
    assert "16.7" in printed


@pytest.fixture
def faulty(tmp_path):
    """A release with one row of each fault beside good ones; returns folder and the expected bad lines."""
    release = tmp_path / "release"
    (release / "annotations").mkdir(parents=True)
    (release / "images").mkdir()
    noise = io.BytesIO()
    Picture.effect_noise((64, 64), 50).save(noise, "PNG")
    (release / "images" / "good.png").write_bytes(noise.getvalue())
    (release / "images" / "cut.png").write_bytes(noise.getvalue()[: len(noise.getvalue()) // 2])
    (release / "images" / "text.png").write_text("no picture")
    question = "<image>\nWhere?"
    rows = [
        raw_row(question, "images/good.png", [0.5, 0.0]),
        raw_row(question, "images/none.png", [0.5]),
        raw_row(question, "images/cut.png", [0.5]),
        raw_row(question, "images/text.png", [0.5]),
        raw_row(question, "images/good.png", [0.5, 0.0]),
        raw_row("<image> <image>", "images/good.png", [0.5]),
        {**raw_row("Why?", None, [0.5]), "steps_with_score": []},
        raw_row("Why?", None, [1.5]),
    ]
    path = release / "annotations" / "a.jsonl"
    path.write_bytes(jsonl(rows) + b"{\n")
    reasons = {
        2: "field 'image': '.*images/none.png' cannot be opened",
        3: "field 'image': '.*images/cut.png' cannot be opened",
        4: "field 'image': '.*images/text.png' cannot be opened",
        6: "field 'question' has 2 <image> placeholders for 1 images",
        7: "field 'steps_with_score' must be a list that is not empty",
        8: r"field 'steps_with_score\[0\].score' must be a finite number in \[0, 1\], got 1.5",
        9: "not valid JSON",
    }
    return release, {f"{path}:{line}": reason for line, reason in reasons.items()}


@pytest.mark.parametrize("processes", [1, 2])
def test_every_bad_row_is_named(faulty, processes, capsys, tmp_path):
    release, reasons = faulty
    report_file = tmp_path / "report.json"
    assert main(["check", str(release), "--processes", str(processes), "--json", str(report_file)]) == 1
    printed = [line for line in capsys.readouterr().out.splitlines() if ".jsonl:" in line]
    report = json.loads(report_file.read_text())
    assert [bad["place"] for bad in report["bad_rows"]] == list(reasons)
    for bad, (place, reason), line in zip(report["bad_rows"], reasons.items(), printed, strict=True):
        assert line == f"{place}: {bad['reason']}"
        assert re.match(reason, bad["reason"])
    total = report["total"]
    assert (total["rows"], total["bad_rows"], total["duplicates"]) == (9, 7, 1)
    assert (total["images"], total["missing"], total["undecodable"]) == (4, 1, 2)
    folder = release / "annotations" / "a.jsonl"
    assert report["duplicates"] == [{"place": f"{folder}:5", "repeats": f"{folder}:1"}]
    assert total["labels"] == {"+": 2, "-": 2}


def test_without_images(faulty, capsys):
    release, reasons = faulty
    assert check(release, "--no-images") == 1
    printed = capsys.readouterr().out
    assert [place for place in reasons if f"{place}: " in printed] == [
        f"{release}/annotations/a.jsonl:{n}" for n in (6, 7, 8, 9)
    ]
    assert "undecodable" not in printed


def test_conversations_in_parts(tmp_path):
    report = check_data([write_conversation_release(tmp_path)], show_progress=False)
    assert report.bad_rows == []
    assert report.total.rows == 3
    assert report.total.images == 3
    assert report.total.labels == {"+": 4, "-": 2}
    assert report.sources[f"{GEOMETRY}_prm"].mc == {"1": 2, "0": 1}


def test_embedded_pictures(tmp_path):
    steps = List({"step": Value("string"), "score": Value("float64")})
    features = Features({"image": Image(), "question": Value("string"), "steps_with_score": steps})
    red = PICTURES["ai2d/images/1.png"]
    rows = [
        {
            "image": {"bytes": data, "path": f"{n}.png"},
            "question": "q",
            "steps_with_score": [{"step": "a", "score": n / 4}],
        }
        for n, data in enumerate([red, red, red[:60]])
    ]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "a.parquet")
    report = check_data([tmp_path / "a.parquet"], show_progress=False)
    assert [place for place, _ in report.bad_rows] == [f"{tmp_path}/a.parquet:3"]
    assert "60 bytes cannot be opened" in report.bad_rows[0][1]
    counts = report.sources["a"]
    assert (counts.rows, counts.images, counts.undecodable, counts.missing, counts.duplicates) == (3, 2, 1, 0, 1)


def test_steps_without_a_score(tmp_path):
    row = raw_row("Why?", None, [0.5, 0.0])
    row["steps_with_score"][1] |= {"num_mc_correct": 0, "num_mc_total": 0}
    (tmp_path / "a.jsonl").write_bytes(jsonl([row]))
    report = check_data([tmp_path], show_progress=False)
    assert report.total.labels == {"+": 1, "none": 1}
    assert json.loads(as_json(report))["total"]["share_incorrect"] == 0.0


def test_blank_steps_are_counted(tmp_path):
    """They join their neighbours, as in training; the released annotator keeps them."""
    row = raw_row("Why?", None, [0.5, 0.25, 0.0])
    row["steps_with_score"][1]["step"] = " \n"
    (tmp_path / "a.jsonl").write_bytes(jsonl([row, raw_row("How?", None, [0.5])]))
    report = check_data([tmp_path], show_progress=False)
    assert report.is_fine
    assert (report.total.rows, report.total.steps, report.total.blank_steps) == (2, 3, 1)


def test_empty_files_are_not_fine(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_bytes(jsonl([raw_row("Why?", None, [0.5])]))
    assert check(tmp_path) == 0
    for content in (b"", b"\n \n"):
        (tmp_path / "b.jsonl").write_bytes(content)
        assert check(tmp_path, "--json", tmp_path / "report.json") == 1
        assert f"{tmp_path}/b.jsonl: holds no rows" in capsys.readouterr().out
        assert json.loads((tmp_path / "report.json").read_text())["empty_files"] == [f"{tmp_path}/b.jsonl"]


def test_what_is_odd_is_reported(tmp_path, capsys):
    """Such rows are used: fit takes the score as it is, and the last of two equal keys."""
    rounded, wrong, none = (raw_row("Why?", None, [score]) for score in (0.33, 0.5, 0.5))
    rounded["steps_with_score"][0] |= {"num_mc_correct": 1, "num_mc_total": 3}
    wrong["steps_with_score"][0] |= {"num_mc_correct": 16, "num_mc_total": 16}
    none["steps_with_score"][0] |= {"num_mc_correct": 0, "num_mc_total": 0}  # not sampled
    twice = json.dumps(raw_row("Why twice?", None, [0.5]))[:-1] + ', "question": "Why then?"}\n'
    nested = json.dumps(raw_row("Who?", None, [0.5])).replace('"score": 0.5', '"score": 1, "score": 0.5') + "\n"
    whole = jsonl([rounded, wrong]) + (twice + nested).encode()
    (tmp_path / "a.jsonl").write_bytes(whole)
    assert check(tmp_path / "a.jsonl", "--json", tmp_path / "report.json") == 1
    expected = {
        2: "field 'steps_with_score': a score is 0.5, but 16 of 16 continuations are right",
        3: "the key 'question' is there more than once; the last one counts",
        4: "the key 'score' is there more than once; the last one counts",
    }
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    for line, remark in expected.items():
        assert {"place": f"{tmp_path}/a.jsonl:{line}", "remark": remark} in report["remarks"]
        assert f"{tmp_path}/a.jsonl:{line}: odd, but used: {remark}" in printed
    assert len(report["remarks"]) == report["total"]["remarks"] == 3
    assert (report["total"]["rows"], report["total"]["bad_rows"]) == (4, 0)
    with zipfile.ZipFile(tmp_path / "annotations.zip", "w") as archive:
        archive.writestr("annotations/a.jsonl", whole)
    assert len(check_data([tmp_path / "annotations.zip"], show_progress=False).remarks) == 3


def test_what_a_model_cannot_read(tmp_path, family_checkpoint, capsys):
    """Special tokens, refused pictures and too many tokens, as `fit` finds them."""
    for name, size in (("good", (40, 40)), ("wide", (2100, 10))):
        Picture.new("RGB", size).save(tmp_path / f"{name}.png")
    rows = [
        raw_row("<image>\nWhere?", "good.png", [0.5]),
        raw_row("<image>\nWhere?", "wide.png", [0.5]),
        raw_row("What is <|im_end|>?", None, [0.5]),
        raw_row("Why?" * 100_000, None, [0.5]),
    ]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    assert check(tmp_path) == 0
    assert check(tmp_path, "--model", family_checkpoint("qwen2_5_vl"), "--json", tmp_path / "report.json") == 1
    bad = json.loads((tmp_path / "report.json").read_text())["bad_rows"]
    reasons = [
        r"field 'image': '.*wide.png' \(2100 x 10 pixels\) cannot be used with this model: Qwen2VL",
        r"question: the text holds the special token '<\|im_end\|>'",
        r"the conversation has \d{5,} tokens, the model \d+ positions",
    ]
    assert [row["place"] for row in bad] == [f"{tmp_path}/a.jsonl:{line}" for line in (2, 3, 4)]
    assert all(re.match(reason, row["reason"]) for reason, row in zip(reasons, bad, strict=True))
    printed = capsys.readouterr().out
    assert f"{tmp_path}/a.jsonl:3: question" in printed


def test_a_jpeg_cut_short_in_the_middle(tmp_path):
    noise = io.BytesIO()
    Picture.effect_noise((64, 64), 50).save(noise, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(noise.getvalue()[:-1000])
    (tmp_path / "a.jsonl").write_bytes(jsonl([raw_row("<image>\nWhere?", "cut.jpg", [0.5])]))
    report = check_data([tmp_path], show_progress=False)
    ((place, reason),) = report.bad_rows
    assert place == f"{tmp_path}/a.jsonl:1"
    assert "cut.jpg' cannot be opened as an image: image file is truncated" in reason


def test_ranges_of_scores():
    assert [mc_bin(n / 16) for n in (0, 1, 4, 5, 8, 9, 12, 13, 15, 16)] == [
        MC_BINS[index] for index in (0, 1, 1, 2, 2, 3, 3, 4, 4, 5)
    ]


def test_a_path_that_cannot_be_read(tmp_path, capsys):
    assert check(tmp_path / "none.jsonl") == 2
    assert "none.jsonl is neither a JSONL or parquet file" in capsys.readouterr().err
    (tmp_path / "annotations.zip").write_bytes(b"no archive")
    assert check(tmp_path) == 2
    assert "annotations.zip: not a zip archive" in capsys.readouterr().err


def test_markup_in_names_is_shown_as_it_is(tmp_path, capsys):
    (tmp_path / "[red]a.jsonl").write_bytes(jsonl([raw_row("Why?", None, [0.5])]) + b"{\n")
    assert check(tmp_path) == 1
    printed = capsys.readouterr().out
    assert "[red]a" in printed
    assert f"{tmp_path}/[red]a.jsonl:2: not valid JSON" in printed


def test_extract(tmp_path, capsys):
    release = write_raw_release(tmp_path)
    split_file(release / "images.zip", 3)
    command = ["extract", str(release / "images.zip"), "--output", str(tmp_path / "out")]
    assert main([*command, "--max-gibibytes", "0.0000001"]) == 2
    assert "are allowed" in capsys.readouterr().err
    assert main(command) == 0
    assert {p.read_bytes() for p in (tmp_path / "out").rglob("*.png")} == set(PICTURES.values())
    assert main(command) == 2
    assert "out exists already" in capsys.readouterr().err


def test_images_are_decoded_in_other_processes(tmp_path, capsys):
    release = write_raw_release(tmp_path)
    with zipfile.ZipFile(release / "images.zip", "a") as archive:
        for number in range(200):
            archive.writestr(f"images/more/{number}.png", PICTURES["ai2d/images/1.png"])
    rows = [raw_row("<image>\nWhere?", f"VisualPRM400K-v1.1-Raw/more/{number}.png", [0.5]) for number in range(200)]
    (release / "annotations").mkdir()
    (release / "annotations" / "more.jsonl").write_bytes(jsonl(rows))
    assert main(["check", str(release), "--processes", "2"]) == 0
    printed = capsys.readouterr().out
    assert "more" in printed
    assert "200" in printed
