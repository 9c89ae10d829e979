import json
import math

import pytest

from datamodules.batching.collate import merge_scored_steps
from datamodules.conversation.steps import split_into_steps
from datamodules.supervision import row_reader
from datamodules.supervision.rows import read_rows


@pytest.fixture
def read(tmp_path, pictures, write_lines):
    """Writes rows to a file and reads them back."""

    def write_and_read(lines, name="geometry.jsonl", **options):
        path = write_lines(tmp_path / name, lines)
        return read_rows([path], cache_dir=tmp_path / "cache", **{"on_bad_row": "error"} | options)

    return write_and_read


def test_most_rows_of_a_source_are_not_left_out(read, raw_row):
    """They are few of all rows, but a source whose pictures are missing is no accident."""
    rows = [raw_row(image=None, source="whole")] * 400 + [raw_row(image="none.png", source="gone")] * 20
    with pytest.raises(ValueError, match=r"^annotations of gone: 20 of 20 rows .*\nby cause: 20 field 'image': "):
        read(rows, on_bad_row="skip")
    assert len(read(rows, on_bad_row="skip", max_bad_rows=1.0)) == 400


def test_a_raw_row(read, raw_row, tmp_path):
    table = read([raw_row(), raw_row(image=None, source="algebra")])
    assert table[0] == {
        "sample_id": f"{tmp_path}/geometry.jsonl:1",
        "source": "geometry",
        "question_key": table[0]["question_key"],
        "images": [f"{tmp_path}/pictures/a.png"],
        "image_bytes": [],
        "question": "How many digits are larger than 4?",
        "question_bare": "How many digits are larger than 4?",
        "system_prompt": None,
        "num_mc_stopping": "",
        "blank_steps": 0,
        "steps": ["The digits are 3, 7 and 9.", "So the answer is \\boxed{2}."],
        "mc": [0.75, 1.0],
        "num_mc_correct": [3, 4],
        "num_mc_total": [4, 4],
        "question_accuracy": None,
        "problem": "",
        "weight": 1.0,
        "max_tiles": 0,
        "limit": 0,
    }
    assert table[1]["images"] == []
    assert table[1]["source"] == "algebra"
    assert table[1]["question_key"] != table[0]["question_key"]


def test_the_accuracy_of_a_question(read, raw_row):
    conversations = [
        {"from": "human", "value": "### Question:\nq\n\n### Solution Process:\na"},
        {"from": "gpt", "value": "+"},
    ]
    table = read(
        [
            raw_row(question_accuracy=0.25),
            raw_row(question_accuracy=1),
            raw_row(),
            {"conversations": conversations, "question_accuracy": 0},
        ]
    )
    assert table["question_accuracy"][:] == [0.25, 1.0, None, 0.0]
    for value in (1.5, "high", -0.5):
        with pytest.raises(ValueError, match=r"geometry.jsonl:1: field 'question_accuracy' must be a finite number in"):
            read([raw_row(question_accuracy=value)])


def test_mixed_types_that_json_loaders_stumble_over(read, raw_row):
    """A path beside a list of paths, an integer score before a float score, absent counts."""
    table = read(
        [
            raw_row(image=["pictures/a.png", "pictures/a.png"]),
            raw_row(),
            raw_row(steps_with_score=[{"step": "a", "score": 0}, {"step": "b", "score": 0.5}]),
        ]
    )
    assert [len(images) for images in table["images"]] == [2, 1, 1]
    assert table[2]["mc"] == [0.0, 0.5]
    assert table[2]["num_mc_total"] == [-1, -1]


def test_a_step_without_continuations_has_no_score(read, raw_row):
    steps = [
        {"step": "a", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 4},
        {"step": "b", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 0},
    ]
    table = read([raw_row(steps_with_score=steps)])
    assert table[0]["mc"][0] == 0.0
    assert math.isnan(table[0]["mc"][1])


def test_a_solution_that_came_out_empty_is_one_empty_step(read, raw_row):
    step = {"step": "", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 4}
    assert read([raw_row(steps_with_score=[step])])[0]["steps"] == [""]


def test_a_blank_step_joins_its_neighbour(read, raw_row, caplog):
    """The released annotator keeps blank pieces; their scores, of any kind, are dropped, and the notice counts them."""
    steps = [
        {"step": "\n", "score": 1.0, "num_mc_correct": 4, "num_mc_total": 4},
        {"step": "First.", "score": 0.75, "num_mc_correct": 3, "num_mc_total": 4},
        {"step": "", "score": 0.5},
        {"step": " \t", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 0},
        {"step": "Last.", "score": 0.25, "num_mc_correct": 1, "num_mc_total": 4},
    ]
    for _ in range(2):  # the second time the table comes from the cache
        table = read([raw_row(), raw_row(steps_with_score=steps)])
        assert table["blank_steps"][:] == [0, 3]
        ours, released = (merge_scored_steps(table[1], 12, rule) for rule in ("ours", "released"))
        assert ours["steps"] == ["First.", "Last."] == split_into_steps("\n\n".join(s["step"] for s in steps))
        assert ours["mc"] == [0.75, 0.25]
        assert (ours["num_mc_correct"], ours["num_mc_total"]) == ([3, 1], [4, 4])
        assert released["steps"] == [step["step"] for step in steps]
        assert released["num_mc_total"] == [4, 4, -1, 0, 4]


def test_a_solution_of_blank_steps_is_one_empty_step(read, raw_row):
    steps = [{"step": "", "score": 1.0}, {"step": " ", "score": 0.5}]
    row = merge_scored_steps(read([raw_row(steps_with_score=steps)])[0], 12)
    assert ([text.strip() for text in row["steps"]], row["mc"]) == ([""], [0.5])


def test_conversation_rows(read):
    first = "### Question:\nHow many?\n\n### Solution Process:\nI see two."
    turns = [("human", first), ("gpt", "+"), ("human", "So 3."), ("gpt", "-")]
    row = {"id": 7, "image": "pictures/a.png", "conversations": [{"from": f, "value": v} for f, v in turns]}
    table = read([row])
    assert table[0]["question"] == "How many?"
    assert table[0]["steps"] == ["I see two.", "So 3."]
    assert table[0]["mc"] == [1.0, 0.0]
    turns[1] = ("gpt", "=")
    row["conversations"] = [{"from": f, "value": v} for f, v in turns]
    with pytest.raises(ValueError, match=r"geometry.jsonl:1: field 'conversations': labels '='"):
        read([row])


def step(**fields):
    good = {"step": "b", "score": 0.5, "num_mc_correct": 2, "num_mc_total": 4}
    changed = {name: value for name, value in {**good, **fields}.items() if value is not None}
    return [{"step": "a", "score": 1.0, "num_mc_correct": 4, "num_mc_total": 4}, changed]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": 3}, "field 'question' must be a string, got 3"),
        ({"question": " "}, "field 'question' must be a string that is not blank"),
        ({"question": "two <image> <image>"}, "field 'question' has 2 <image> placeholders for 1 images"),
        ({"image": "pictures/missing.png"}, "field 'image': .*missing.png"),
        ({"image": "pictures/text.png"}, "field 'image': .*text.png' cannot be opened as an image"),
        ({"image": {"url": "a"}}, "field 'image' must be a path"),
        ({"image": ["pictures/a.png", 7]}, "field 'image' must be a path"),
        ({"source": 7}, "field 'source' must be a string, got 7"),
        ({"steps_with_score": []}, "field 'steps_with_score' must be a list that is not empty"),
        ({"steps_with_score": "a"}, "field 'steps_with_score' must be a list that is not empty, got 'a'"),
        ({"steps_with_score": ["a"]}, r"field 'steps_with_score\[0\]' must be an object, got 'a'"),
        (
            {"steps_with_score": step(step=7)},
            r"field 'steps_with_score\[1\].step' must be a string, got 7",
        ),
        ({"steps_with_score": step(step=5)}, r"field 'steps_with_score\[1\].step' must be a string, got 5"),
        ({"steps_with_score": step(score=None)}, r"field 'steps_with_score\[1\].score' is missing"),
        ({"steps_with_score": step(score=math.nan)}, r"'steps_with_score\[1\].score' must be a finite .*, got nan"),
        ({"steps_with_score": step(score=math.inf)}, r"'steps_with_score\[1\].score' must be a finite .*, got inf"),
        ({"steps_with_score": step(score=1.5)}, r"'steps_with_score\[1\].score' must be .* in \[0, 1\], got 1.5"),
        ({"steps_with_score": step(score="0.5")}, r"'steps_with_score\[1\].score' must be .*, got '0.5'"),
        ({"steps_with_score": step(score=True)}, r"'steps_with_score\[1\].score' must be .*, got True"),
        (
            {"steps_with_score": step(num_mc_correct=5)},
            r"\[1\].num_mc_correct' must be at most num_mc_total \(4\), got 5",
        ),
        ({"steps_with_score": step(num_mc_correct=None)}, r"\[1\].num_mc_correct' is missing"),
        (
            {"steps_with_score": step(num_mc_total=0.5)},
            r"\[1\].num_mc_total' must be an integer of at least 0, got 0.5",
        ),
        (
            {"steps_with_score": [{"step": "a", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 0}]},
            "field 'steps_with_score': no step has a continuation",
        ),
    ],
)
def test_bad_rows_are_named(read, raw_row, tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as error:
        read([raw_row(), raw_row(), raw_row(**change)])
    assert str(error.value).startswith(f"{tmp_path}/geometry.jsonl:3: field ")
    assert "on_bad_row" in str(error.value)


def test_a_missing_field(read, raw_row):
    with pytest.raises(ValueError, match=r"geometry.jsonl:1: field 'question' is missing; the row has \['answer'"):
        read([raw_row(question=None)])


def test_a_malformed_line(read, raw_row):
    with pytest.raises(ValueError, match=r"geometry.jsonl:2: not valid JSON: .*and 1 more bad rows of 4"):
        read([raw_row(), '{"question": ', raw_row(), "[]"])


def test_bad_rows_can_be_skipped_and_are_counted(read, raw_row, caplog):
    lines = [raw_row(), "{", raw_row(image="pictures/missing.png"), raw_row(question="Another?")]
    for _ in range(2):  # the second time the table comes from the cache
        caplog.clear()
        table = read(lines, on_bad_row="skip")
        assert table["question"][:] == ["How many digits are larger than 4?", "Another?"]
        assert "2 of 4 rows are left out (geometry: 2); the first: " in caplog.text
        assert "geometry.jsonl:2: not valid JSON" in caplog.text
    with pytest.raises(ValueError, match=r"no usable rows in .*other.jsonl"):
        read(["{"], "other.jsonl", on_bad_row="skip")


def test_the_table_is_kept_by_content(read, raw_row, monkeypatch):
    first = read([raw_row()])
    # The same content comes from the cache even where rows can no longer be parsed; other content does not.
    monkeypatch.setattr(row_reader, "parse_row", lambda *_: (_ for _ in ()).throw(ValueError("parsed again")))
    assert read([raw_row()])[:] == first[:]
    with pytest.raises(ValueError, match="parsed again"):
        read([raw_row(question="Changed?")])


def test_images_need_not_be_looked_at(read, raw_row):
    assert len(read([raw_row(image="pictures/missing.png")], check_images=False)) == 1


def test_image_root(tmp_path, pictures, write_lines, raw_row):
    path = write_lines(tmp_path / "annotations" / "a.jsonl", [raw_row(image="a.png")])
    table = read_rows([path], pictures, cache_dir=tmp_path / "cache")
    assert table[0]["images"] == [str(pictures / "a.png")]
    with pytest.raises(ValueError, match=r"a.jsonl:1: field 'image'"):
        read_rows([path], cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (f'"score": {"1" * 400}', r"steps_with_score\[0\].score' must be a finite number"),
        (
            f'"score": 1, "num_mc_correct": 1, "num_mc_total": {10**30}',
            r"steps_with_score\[0\].num_mc_total' must be an integer",
        ),
        (r'"score": 1, "step": "\ud800"', r"steps_with_score\[0\].step' must be valid Unicode"),
    ],
)
def test_values_that_json_has_and_tables_have_not_are_bad_rows(read, raw_row, caplog, bad, message):
    step = '{"step": "a", ' + bad + "}"
    line = json.dumps(raw_row(steps_with_score=["X"])).replace('"X"', step)
    with pytest.raises(ValueError, match=rf"geometry.jsonl:2: field '{message}"):
        read([raw_row(), line])
    assert len(read([raw_row(), line], on_bad_row="skip")) == 1
    assert "1 of 2 rows are left out" in caplog.text
