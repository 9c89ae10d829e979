import json

from datasets import Dataset

from datamodules.conversation.special_text import rows_with_text
from datamodules.supervision.rows import FEATURES, read_rows


def test_rows_with_text():
    def row(number, question, steps, images=("a.png",)):
        numbers = [1] * len(steps)
        counts = {"mc": [1.0] * len(steps), "num_mc_correct": numbers, "num_mc_total": numbers}
        names = {
            "sample_id": f"f:{number}",
            "source": "s",
            "question_key": "k",
            "images": images,
            "image_bytes": [],
            "question_accuracy": None,
            "blank_steps": 0,
            "num_mc_stopping": "",
            "system_prompt": None,
            "problem": "",
        }
        return {**names, **counts, "question": question, "question_bare": "bare [x]", "steps": steps}

    rows = [
        row(1, "fine <image>", ["a", "b"]),
        row(2, "bad <|end|>", ["a"]),
        row(3, "fine", ["a", "b", "c [x] "]),
        row(4, "fine", ["<image>"]),
        row(5, "left out <|end|>", ["a"]),
    ]
    table = Dataset.from_list(json.loads(json.dumps(rows)), features=FEATURES).select([3, 2, 1, 0])
    assert rows_with_text(table, ["<|end|>", "[x]", "<image>"]) == {
        0: "f:4: field 'steps' holds '<image>', a special token of the tokenizer",
        1: "f:3: field 'steps' holds '[x]', a special token of the tokenizer",
        2: "f:2: field 'question' holds '<|end|>', a special token of the tokenizer",
    }
    assert rows_with_text(table, []) == {}
    assert set(rows_with_text(table, ["[x]"], "question_bare")) == {0, 1, 2, 3}
    text_only = Dataset.from_list([row(6, "is <image> an HTML tag?", ["a"], [])], features=FEATURES)
    assert set(rows_with_text(text_only, ["<image>"])) == {0}


def test_what_was_found_is_noted_beside_the_table(tmp_path, pictures, write_lines, raw_row):
    lines = [raw_row(), raw_row(question="Why <|end|> ?"), raw_row(question="Why [x] ?")]
    path = write_lines(tmp_path / "geometry.jsonl", lines)
    table = read_rows([path], cache_dir=tmp_path / "cache").select([2, 1, 0])
    problem = f"{path}:2: field 'question' holds '<|end|>', a special token of the tokenizer"
    assert rows_with_text(table, ["<|end|>"]) == {1: problem}
    (note,) = (tmp_path / "cache").rglob(f"{table.cache_files[0]['filename'].rpartition('/')[2][:32]}.*.json")
    assert json.loads(note.read_text()) == {f"{path}:2": problem}
    note.write_text(json.dumps({f"{path}:1": "from the note"}))
    assert rows_with_text(table, ["<|end|>"]) == {2: "from the note"}
    assert set(rows_with_text(table, ["<|end|>", "[x]"])) == {0, 1}
