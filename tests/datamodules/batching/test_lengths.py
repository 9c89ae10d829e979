import numpy as np
import pytest
from PIL import ExifTags, Image
from transformers import AutoProcessor

from datamodules.batching import lengths as lengths_module
from datamodules.batching.collate import StepCollator
from datamodules.batching.lengths import TokenCounter, TokenLimit, token_lengths, too_long
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.reading_rules import ReadingRules
from datamodules.supervision.rows import read_rows
from datamodules.supervision.sources import ProcessSource
from tools.make_tiny_model import make_tiny_model

TEXTS = ["How many ?", "So the answer is 2 .", "+ - ="]
SIZES = [(20, 20), (64, 31), (31, 64), (200, 40), (97, 150)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Of a processor that cuts pictures into up to six tiles."""
    folder = tmp_path_factory.mktemp("tiling")
    make_tiny_model(folder, iter(TEXTS), vision_hidden_size=16, vision_layers=1, text_hidden_size=32, text_layers=1,
                    heads=2, max_patches=6)  # fmt: skip

    return ConversationEncoder(AutoProcessor.from_pretrained(folder), "Judge.", ("+", "-"))


@pytest.fixture
def annotations(tmp_path, write_lines):
    """Rows with pictures of many shapes, one of them turned by its EXIF data; with several, and without any."""
    for number, size in enumerate(SIZES):
        exif = Image.Exif()
        if number == 3:
            exif[ExifTags.Base.Orientation] = 6
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.jpg", exif=exif)
    lines = []
    for number, pictures in enumerate([[0], [1], [2], [3], [4], [], [0, 3], [1, 2, 4]]):
        steps = [{"step": f"step {n} is {'so ' * n}", "score": 0.5} for n in range(number + 1)]
        images = {"image": [f"{picture}.jpg" for picture in pictures]} if pictures else {}
        lines.append({**images, "question": "How many?", "steps_with_score": steps})
    return write_lines(tmp_path / "rows.jsonl", lines)


def read(annotations, tmp_path, **options):
    paths = [str(path) for path in annotations] if isinstance(annotations, list) else str(annotations)
    return read_rows([ProcessSource(paths, **options)], cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("max_tiles", [None, 1, 3])
@pytest.mark.parametrize("max_steps", [12, 3])
def test_counts_are_those_of_the_encoder(encoder, annotations, tmp_path, max_tiles, max_steps):
    table = read(annotations, tmp_path, max_tiles=max_tiles)
    counted, problems = token_lengths(table, TokenCounter(encoder, max_steps))
    collator = StepCollator(encoder, max_steps)
    assert problems == {}
    assert counted.tolist() == [collator([row]).inputs["input_ids"].shape[1] for row in table]
    assert len(set(counted.tolist())) == len(counted)


def test_counts_by_the_rules_of_the_release(encoder, annotations, tmp_path, write_lines):
    """A picture is not turned, blank steps stay, the question is the longer one."""
    steps = [{"step": text, "score": 0.5} for text in ("a", "", "b")]
    row = {"image": "3.jpg", "question": "Think. How many?", "question_orig": "How?", "steps_with_score": steps}
    write_lines(tmp_path / "more.jsonl", [row])
    table = read([str(annotations), str(tmp_path / "more.jsonl")], tmp_path)
    rules = ReadingRules(question_text="as_asked", pictures="released", white_space="released")
    released = ConversationEncoder(encoder.processor, "Judge.", ("+", "-"), rules=rules)
    counted = {}
    for each in (encoder, released):
        counts, _ = token_lengths(table, TokenCounter(each, 12))
        assert counts.tolist() == [StepCollator(each)([row]).inputs["input_ids"].shape[1] for row in table]
        counted[each] = counts.tolist()
    assert counted[encoder][-1] != counted[released][-1]


def test_a_processor_that_does_not_count_is_asked_about_blank_pictures(encoder, annotations, tmp_path):
    table = read(annotations, tmp_path)
    counter = TokenCounter(encoder, 12)
    assert counter._offset == -1  # the placeholder in the text is one of the tokens that the processor counts
    by_processor = counter(list(table))
    counter._offset = None
    assert counter(list(table)) == by_processor


def test_a_wrong_count_of_a_processor_is_not_trusted(encoder, monkeypatch):
    processor = type(encoder.processor)
    monkeypatch.setattr(
        processor,
        "_get_num_multimodal_tokens",
        lambda self, image_sizes, **_: {"num_image_tokens": [6] * len(image_sizes)},
    )
    assert TokenCounter(encoder, 12)._offset is None


def test_a_second_start_counts_nothing(encoder, annotations, tmp_path, monkeypatch):
    first, _ = token_lengths(read(annotations, tmp_path).select(range(3)), TokenCounter(encoder, 12))
    # Only what is new is counted: rows, another number of tiles, another prompt.
    asked = []
    count = TokenCounter.count
    monkeypatch.setattr(TokenCounter, "count", lambda self, row: asked.append(row["sample_id"]) or count(self, row))
    table = read(annotations, tmp_path)
    lengths, _ = token_lengths(table, TokenCounter(encoder, 12))
    assert lengths[:3].tolist() == first.tolist()
    assert len(asked) == 5
    again, _ = token_lengths(table.select([7, 0, 4]), TokenCounter(encoder, 12))
    assert again.tolist() == lengths[[7, 0, 4]].tolist()
    assert len(asked) == 5
    token_lengths(read(annotations, tmp_path, max_tiles=1), TokenCounter(encoder, 12))
    assert len(asked) == 13
    other = ConversationEncoder(encoder.processor, "", encoder.class_tokens)
    shorter, _ = token_lengths(table, TokenCounter(other, 12))
    assert len(asked) == 21
    assert (shorter < lengths).all()


def test_workers_count_the_same(encoder, annotations, tmp_path, monkeypatch):
    monkeypatch.setattr(lengths_module, "_ROWS_AT_ONCE", 1)
    alone, _ = token_lengths(read(annotations, tmp_path), TokenCounter(encoder, 12))
    workers, _ = token_lengths(
        read_rows([annotations], cache_dir=tmp_path / "another"), TokenCounter(encoder, 12), num_workers=2
    )
    assert workers.tolist() == alone.tolist()


def test_a_broken_picture_is_named(encoder, annotations, tmp_path):
    table = read(annotations, tmp_path)
    (tmp_path / "4.jpg").write_text("no picture")
    lengths, problems = token_lengths(table, TokenCounter(encoder, 12))
    assert list(problems) == [4, 7]
    assert "rows.jsonl:5: field 'image': " in problems[4]
    assert lengths[[4, 7]].tolist() == [0, 0]
    Image.new("RGB", SIZES[4]).save(tmp_path / "4.jpg")
    lengths, problems = token_lengths(table, TokenCounter(encoder, 12))
    assert problems == {}
    assert (lengths > 0).all()


def test_too_long(encoder, annotations, tmp_path):
    table = read(annotations, tmp_path)
    found = too_long(table, np.array([5, 10, 11, 3, 2, 90, 1, 1]), TokenLimit(10, "packed_tokens", "raise it"))
    assert list(found) == [2, 5]
    assert found[5].endswith("rows.jsonl:6: the conversation has 90 tokens, more than packed_tokens=10")


def test_counts_of_another_reading_are_not_taken_up(encoder, annotations, tmp_path):
    """Counts are kept beside the rows; another prompt, place of images or number of steps needs counts of its own."""
    table = read(annotations, tmp_path)
    token_lengths(table, TokenCounter(encoder, 12))
    others = [
        (ConversationEncoder(encoder.processor, "Judge every step.", ("+", "-")), 12),
        (ConversationEncoder(encoder.processor, "Judge.", ("+", "-"), "in_question"), 12),
        (encoder, 3),
    ]
    for other, max_steps in others:
        counted, _ = token_lengths(table, TokenCounter(other, max_steps))
        collator = StepCollator(other, max_steps)
        assert counted.tolist() == [collator([row]).inputs["input_ids"].shape[1] for row in table]
