"""Training rows that nobody, or not this model, can use: what is left out, when, and that batches keep their shapes."""

import logging
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from datamodules.batching.left_out import LeftOutRows
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.interfaces import RewardModelFacts
from datamodules.visual_prm_400k import VisualPRM400KDataModule
from lightning_modules.process_reward import ProcessRewardModel

ROWS = 8
CUT = 3
"""The line of the row whose picture is cut short in the middle, behind a sound header."""


@pytest.fixture
def annotations(tmp_path, write_lines, raw_row):
    for number in range(1, ROWS + 1):
        path = tmp_path / f"{number}.jpg"
        Image.effect_noise((40 + number, 30), 50).convert("RGB").save(path)
    whole = (tmp_path / f"{CUT}.jpg").read_bytes()
    (tmp_path / "whole.jpg").write_bytes(whole)
    (tmp_path / f"{CUT}.jpg").write_bytes(whole[: len(whole) // 2])
    rows = [raw_row(image=f"{number}.jpg", question=f"How many {number}?") for number in range(1, ROWS + 1)]
    return write_lines(tmp_path / "a.jsonl", rows)


@pytest.fixture
def make(tmp_path, annotations, tiny_checkpoint):
    def make_module(model=tiny_checkpoint, **options):
        values = {
            "train_annotations": str(annotations),
            "cache_dir": str(tmp_path / "cache"),
            "model_name_or_path": str(model),
            "batch_size": 2,
        }
        module = VisualPRM400KDataModule(**values | options)
        module.setup("fit")
        return module

    return make_module


def shapes(batches):
    """What ranks must agree on, and what a resumed run repeats: rows and tokens of each batch, in their order."""
    return [(batch.sample_ids, batch.inputs["input_ids"].tolist()) for batch in batches]


@pytest.mark.parametrize(
    ("num_workers", "layout"),
    [
        (0, {}),
        pytest.param(0, {"group_by_length": True}, marks=pytest.mark.thorough),
        pytest.param(0, {"packed_tokens": 400}, marks=pytest.mark.thorough),
        pytest.param(2, {}, marks=pytest.mark.thorough),
        pytest.param(2, {"group_by_length": True}, marks=pytest.mark.thorough),
        (2, {"packed_tokens": 400}),
    ],
)
def test_a_picture_that_fails_when_decoded(make, tmp_path, annotations, layout, num_workers, caplog):
    """Its row stays in its batch, blank and without a label; so the batches are those of the sound picture."""
    batches = list(make(num_workers=num_workers, **layout).train_dataloader())
    with pytest.raises(Exception, match=rf"a.jsonl:{CUT}: field 'image': .*{CUT}.jpg' cannot be opened as an image"):
        list(make(on_bad_row="error", num_workers=num_workers, **layout).train_dataloader())
    again = list(make(num_workers=num_workers, **layout).train_dataloader())
    (tmp_path / "whole.jpg").replace(tmp_path / f"{CUT}.jpg")
    sound = list(make(num_workers=num_workers, **layout).train_dataloader())
    assert shapes(batches) == shapes(again) == shapes(sound)
    name = f"{annotations}:{CUT}"
    for batch, expected in zip(batches, sound, strict=True):
        assert set(batch.left_out) == {name} & set(batch.sample_ids)
        assert expected.left_out == {}
        for row, sample_id in enumerate(batch.sample_ids):
            assert batch.mc[row].isnan().all() == (sample_id == name)
            assert not expected.mc[row].isnan().any()


def test_a_row_that_is_left_out_has_no_part_in_the_loss(make, tiny_checkpoint, annotations, tmp_path, write_lines):
    """The sums of loss and labels, and the gradient, are those of the other rows alone."""
    model = ProcessRewardModel(str(tiny_checkpoint)).eval()
    others = [line for number, line in enumerate(annotations.read_text().splitlines(), 1) if number != CUT]
    sums = []
    for path in (annotations, write_lines(tmp_path / "others.jsonl", others)):
        (batch,) = make(batch_size=ROWS, train_annotations=str(path)).train_dataloader()
        loss = model._losses(batch, model(batch)).sum
        (gradient,) = torch.autograd.grad(loss.total, model.head.weight)
        sums.append((loss.total.detach(), loss.weight, gradient))
    for found, expected in zip(*sums, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sums[0][1] == 2 * (ROWS - 1)


def test_they_are_named_once_on_every_rank(make, annotations, caplog):
    module = make()
    with caplog.at_level(logging.ERROR):  # of other ranks than the first nothing less is shown
        for _ in range(2):
            for batch in module.train_dataloader():
                module.on_before_batch_transfer(batch, 0)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert f"1 left out so far by rank 0, the picture cannot be used: {annotations}:{CUT}: field 'image'" in messages[0]


def test_the_process_validation_split(make, annotations, caplog):
    module = make(train_annotations=None, validation_annotations=str(annotations), eval_batch_size=3)
    (loader,) = module.val_dataloader()
    batches = list(loader)
    assert [len(batch.sample_ids) for batch in batches] == [3, 3, 2]
    assert [batch.mc.isnan().all(1).tolist() for batch in batches] == [[False, False, True], [False] * 3, [False] * 2]


def test_a_run_does_not_go_on_without_most_of_its_rows(make):
    """Where pictures are missing as a whole, it is not the rows that are wrong."""
    batch = next(batch for batch in make(batch_size=1).train_dataloader() if batch.left_out)
    rows = LeftOutRows()
    for number in range(19):
        batch.left_out = {f"row {number}": f"row {number}: missing"}
        rows.note(batch, "train")
    batch.left_out = {"row 19": "row 19: missing"}
    with pytest.raises(ValueError, match=r"train rows: 20 of the first 20 rows .*\nby cause: .*\n.* row 19: missing"):
        rows.note(batch, "train")


@dataclass
class Batch:
    sample_ids: list
    left_out: dict


def noted(rows, total, is_bad, of=None):
    for number in range(total):
        problem = {f"row {number}": f"a.jsonl:{number}: cut short"} if is_bad(number) else {}
        rows.note(Batch([f"row {number}"], problem), "train", of)


@pytest.mark.parametrize(("every", "is_refused"), [(20, False), (11, False), (6, True), (2, True)])
def test_the_first_rows_of_a_random_order_tell_about_all(every, is_refused):
    """A share that is clearly above a tenth ends a run before it has trained long."""
    rows = LeftOutRows(0.1)
    if not is_refused:
        return noted(rows, 4000, lambda number: number % every == 0)
    with pytest.raises(ValueError, match=r"more than max_bad_rows=0\.1"):
        noted(rows, 4000, lambda number: number % every == 0)
    assert rows.seen["train"] < 500


def test_in_a_fixed_order_broken_rows_may_stand_together():
    noted(LeftOutRows(0.1), 400, lambda number: number < 40, of=400)
    with pytest.raises(ValueError, match="41 of 400 rows"):
        noted(LeftOutRows(0.1), 400, lambda number: number < 41, of=400)


@pytest.mark.parametrize(
    "layout", [{}, pytest.param({"group_by_length": True}, marks=pytest.mark.thorough), {"packed_tokens": 600}]
)
def test_long_conversations_in_every_layout(make, tmp_path, annotations, write_lines, raw_row, layout, caplog):
    """A step of two hundred kilobytes would take tens of gigabytes of attention."""
    steps = [{"step": "7 " * 100_000, "score": 0.5}]
    long = raw_row(image="1.jpg", steps_with_score=steps, response=None)
    write_lines(annotations, [*annotations.read_text().splitlines(), long])
    name = f"{annotations}:{ROWS + 1}"
    bound = "packed_tokens=600" if layout.get("packed_tokens") else "the model's max_position_embeddings=1024"
    encoder = make().model_facts.encoder
    module = make(**layout)
    module.connect(RewardModelFacts(encoder, 12, False, max_tokens=1024))
    with pytest.raises(ValueError, match=rf"{name}: the conversation has \d{{6}} tokens, more than {bound}"):
        module.train_dataloader()
    module = make(on_long_conversation="skip", **layout)
    module.connect(RewardModelFacts(encoder, 12, False, max_tokens=1024))
    assert len([name for batch in module.train_dataloader() for name in batch.sample_ids]) == ROWS
    assert f"train rows: 1 of {ROWS + 1} rows are left out (a: 1); the first: {name}" in caplog.text
    module = make(max_tokens=150, **layout)
    with pytest.raises(ValueError, match=r"more than max_tokens=150 .*; raise max_tokens, or set on_long_conversation"):
        module.train_dataloader()


def test_the_bound_is_that_of_the_model(tiny_checkpoint):
    model = ProcessRewardModel(str(tiny_checkpoint))
    assert model.facts.max_tokens == model.backbone.config.text_config.max_position_embeddings == 1024


@pytest.fixture
def wide(tmp_path, annotations, write_lines, raw_row):
    """One more row, with a picture of 2100 x 10, which Qwen2.5-VL refuses."""
    Image.new("RGB", (2100, 10)).save(tmp_path / "wide.png")
    (tmp_path / "whole.jpg").replace(tmp_path / f"{CUT}.jpg")
    write_lines(annotations, [*annotations.read_text().splitlines(), raw_row(image=["1.jpg", "wide.png"])])
    return f"{annotations}:{ROWS + 1}"


REFUSED = r"\(2100 x 10 pixels\) cannot be used with this model: Qwen2VLImageProcessor\w* says: absolute aspect ratio"


@pytest.mark.parametrize(
    "layout", [{}, pytest.param({"group_by_length": True}, marks=pytest.mark.thorough), {"packed_tokens": 2000}]
)
def test_pictures_that_a_processor_refuses(make, wide, family_checkpoint, layout, caplog):
    folder = family_checkpoint("qwen2_5_vl")
    with pytest.raises(ValueError, match=rf"{wide}: field 'image': '.*wide.png' {REFUSED}"):
        make(folder, on_bad_row="error", **layout).train_dataloader()
    module = make(folder, **layout)
    assert len([name for batch in module.train_dataloader() for name in batch.sample_ids]) == ROWS
    assert f"train rows: 1 of {ROWS + 1} rows are left out (a: 1); the first: {wide}: field 'image'" in caplog.text


def test_refused_pictures_that_were_not_looked_at(make, wide, family_checkpoint):
    """On slow file systems headers are not read before; then the row is left out of its batch."""
    folder = family_checkpoint("qwen2_5_vl")
    batches = list(make(folder, check_images=False).train_dataloader())
    assert sum(len(batch.sample_ids) for batch in batches) == ROWS  # of nine rows, in whole batches of two
    (batch,) = make(folder, check_images=False, batch_size=ROWS + 1).train_dataloader()
    assert list(batch.left_out) == [wide]
    assert "picture 1 (2100 x 10 pixels)" in batch.left_out[wide]
    assert [row.isnan().all() for row in batch.mc] == [name == wide for name in batch.sample_ids]


def test_score_names_a_refused_picture(family_checkpoint):
    model = ProcessRewardModel(str(family_checkpoint("qwen2_5_vl")))
    pictures = [Image.new("RGB", (40, 40)), Image.new("RGB", (2100, 10))]
    with pytest.raises(ValueError, match=rf"score\(\): picture 1 {REFUSED}"):
        model.score(pictures, "How many?", ["7"])


def test_an_encoder_names_the_conversation_of_a_refused_picture(family_checkpoint):
    processor = AutoProcessor.from_pretrained(family_checkpoint("qwen2_5_vl"))
    encoder = ConversationEncoder(processor, "", ("+", "-"))
    good, bad = Image.new("RGB", (40, 40)), Image.new("RGB", (10, 2100))
    with pytest.raises(ValueError, match=r"b.jsonl:2: picture 0 \(10 x 2100 pixels\) cannot be used"):
        encoder.encode([([good], "q", ["7"], "b.jsonl:1"), ([bad], "q", ["7"], "b.jsonl:2")])
