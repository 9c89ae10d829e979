"""The splits of process supervision on files in the released format."""

import pytest

from datamodules.conversation.encoder import ConversationEncoder
from datamodules.supervision.selection import RowSelection
from datamodules.supervision.sources import ProcessSource
from datamodules.supervision.splits import PROCESS, TRAIN, ProcessSupervision

QUESTIONS, SOLUTIONS = 6, 2


@pytest.fixture
def supervision(tmp_path, pictures, write_lines, raw_row):
    """Makes the splits of one training file, and of a validation file if its rows are given; keeps what was asked."""
    write_lines(
        tmp_path / "algebra.jsonl", [raw_row(question=f"{n // SOLUTIONS}?") for n in range(QUESTIONS * SOLUTIONS)]
    )

    def make(validation=(), **options):
        files = {TRAIN: tmp_path / "algebra.jsonl", PROCESS: tmp_path / "held_out.jsonl"}
        if validation:
            write_lines(files[PROCESS], validation)
        asked = []

        def sources(name):
            asked.append(name)
            return [ProcessSource([str(files[name])], str(tmp_path))] if files[name].exists() else []

        return ProcessSupervision(sources, cache_dir=str(tmp_path / "cache"), **options), asked

    return make


def test_an_evaluation_does_not_ask_for_training_rows(supervision, raw_row):
    splits, asked = supervision([raw_row(question="new?")])
    splits.build(with_training=False, with_validation=True)
    splits.read(with_training=False, with_validation=True)
    assert splits.tables.keys() == {PROCESS}
    assert TRAIN not in asked
    assert splits.rows_of_sources == {}
    assert splits.fingerprint(TRAIN) == ""
    splits.read(with_training=True, with_validation=True)
    assert splits.tables.keys() == {TRAIN, PROCESS}
    assert splits.rows_of_sources == {"algebra": QUESTIONS * SOLUTIONS}


def test_a_share_of_the_questions_is_held_out_whatever_is_asked_for(supervision):
    splits, _ = supervision(validation_fraction=0.5, seed=3)
    splits.read(with_training=False, with_validation=True)
    assert {name: len(table) for name, table in splits.tables.items()} == {
        name: QUESTIONS * SOLUTIONS // 2 for name in (TRAIN, PROCESS)
    }
    keys = {name: set(table["question_key"]) for name, table in splits.tables.items()}
    assert not keys[TRAIN] & keys[PROCESS]
    assert splits.validation_data.startswith("0.5 of the questions of ")
    assert splits.validation_data.endswith("algebra.jsonl (split with seed 3)")


def test_what_is_read_is_not_read_again(supervision, tmp_path):
    splits, _ = supervision()
    splits.read(with_training=True, with_validation=True)
    before = splits.tables[TRAIN]
    (tmp_path / "algebra.jsonl").unlink()
    splits.read(with_training=True, with_validation=True)
    assert splits.tables[TRAIN] is before
    assert not splits.has_validation


def test_texts_are_checked_once(supervision, raw_row, tiny_processor):
    """And rows that hold a special token are another set of rows."""
    rows = [raw_row(question="sound?"), raw_row(question="<|end|> broken?")]
    splits, _ = supervision(rows, on_bad_row="skip")
    splits.read(with_training=False, with_validation=True)
    encoder = ConversationEncoder(tiny_processor, None, ("+", "-"))
    before = splits.fingerprint(PROCESS)
    splits.check_texts(PROCESS, encoder)
    assert splits.tables[PROCESS]["question"][:] == ["sound?"]
    assert splits.fingerprint(PROCESS) != before
    splits.check_texts(PROCESS, None)  # asks for no encoder


def test_columns_say_what_the_source_of_each_row_says(tmp_path, pictures, write_lines, raw_row):
    files = [write_lines(tmp_path / f"{name}.jsonl", [raw_row()] * count) for name, count in (("a", 2), ("b", 3))]
    sources = [
        ProcessSource([str(files[0])], str(tmp_path), weight=0.5, max_tiles=4),
        ProcessSource([str(files[1])], str(tmp_path), limit=3),
    ]
    splits = ProcessSupervision(lambda name: sources if name == TRAIN else [], cache_dir=str(tmp_path / "cache"))
    splits.read(with_training=True, with_validation=True)
    table = splits.tables[TRAIN]
    assert table["weight"][:] == [0.5, 0.5, 1, 1, 1]
    assert table["max_tiles"][:] == [4, 4, 0, 0, 0]
    assert table["limit"][:] == [0, 0, 3, 3, 3]


def test_a_selection_is_of_the_training_rows_alone(supervision):
    """The same questions are held out with it and without it."""
    whole, _ = supervision(validation_fraction=0.5)
    whole.read(with_training=True, with_validation=True)
    splits, _ = supervision(validation_fraction=0.5, selection=RowSelection(0.5, "random"))
    splits.read(with_training=True, with_validation=True)
    assert splits.tables[PROCESS]["sample_id"][:] == whole.tables[PROCESS]["sample_id"][:]
    assert len(splits.tables[TRAIN]) == 3
    assert set(splits.tables[TRAIN]["sample_id"]) < set(whole.tables[TRAIN]["sample_id"])
    assert splits.fingerprint(TRAIN) != whole.fingerprint(TRAIN)


def test_validation_questions_that_are_trained_on_are_told(supervision, raw_row, caplog):
    for validation in ([raw_row(question="new?")], [raw_row(question=text) for text in ("new?", "2?", "0?")]):
        splits, _ = supervision(validation)
        splits.read(with_training=True, with_validation=True)
    (message,) = caplog.messages
    assert message.startswith("2 of 3 validation rows ask questions that the training rows ask, too, about the same")
    assert "held_out.jsonl:2: the validation does not show" in message
