"""Packed and padded training of a reward model give the same losses and gradients."""

import json
import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.nn.functional import cross_entropy

from datamodules.batching.collate import StepCollator
from datamodules.batching.packing import PackingCollator
from datamodules.supervision.rows import read_rows
from datamodules.visual_prm_400k import VisualPRM400KDataModule
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.process_reward import ProcessRewardModel

ROWS = [
    # pictures, steps, Monte Carlo scores
    ([1], ["The digits are 3 , 7", "So 9", "So 2"], [0.75, 0.25, 0.0]),
    ([], ["So the answer is \\boxed{9} ."], [1.0]),
    ([2, 3], ["The digits are 3", "9", "So 7", "+"], [0.5, math.nan, 0.0, 0.0]),
    ([1, 2], ["How many digits are larger than 4 ?", "So"], [0.0, 0.0]),
    ([3], ["7"], [0.25]),
]


@pytest.fixture
def rows(tmp_path, picture):
    for number in range(1, 4):
        picture(number).save(tmp_path / f"{number}.png")
    return [
        {
            "sample_id": str(index),
            "source": "test",
            "images": [str(tmp_path / f"{number}.png") for number in pictures],
            "question": "How many?",
            "steps": steps,
            "mc": mc,
            "num_mc_correct": [-1] * len(steps),
            "num_mc_total": [-1] * len(steps),
        }
        for index, (pictures, steps, mc) in enumerate(ROWS)
    ]


def gradients(model, batch):
    model.zero_grad()
    loss = model.training_step(batch, 0)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_losses_and_gradients_are_the_same(sharp_checkpoint, rows, weight, implementation):
    model = ProcessRewardModel(str(sharp_checkpoint), language_model_weight=weight)
    model.backbone.set_attn_implementation(implementation)
    collator = StepCollator(model.encoder, mark_step_tokens=weight > 0)
    padded, packed = collator(rows), PackingCollator(collator, 10_000)(rows)
    labels = (padded.mc <= 0).long().masked_fill(padded.mc.isnan(), -100)
    losses = [cross_entropy(model(b).mT, labels, reduction="none") for b in (padded, packed)]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)
    assert losses[0][labels >= 0].std() > 0.1
    (loss, expected), (packed_loss, found) = gradients(model, padded), gradients(model, packed)
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).abs().max() <= 1e-5 + 1e-4 * expected[name].abs().max(), name


def test_without_new_positions_losses_differ(sharp_checkpoint, rows):
    model = ProcessRewardModel(str(sharp_checkpoint))
    batch = PackingCollator(StepCollator(model.encoder), 10_000)(rows)
    right = model(batch)
    states = model.backbone.model(
        **batch.inputs | {"position_ids": torch.arange(batch.boundaries[-1])[None]}, use_cache=False
    ).last_hidden_state
    wrong = model.head(states, batch.step_positions.flatten()[None])[0].unflatten(0, batch.step_positions.shape)
    difference = (right.log_softmax(-1) - wrong.log_softmax(-1)).abs().amax(-1)
    assert difference[0].max() < 1e-5
    assert (difference[1:].amax(-1) > 1e-3).all()


class Losses(Callback):
    """Remembers what each training batch was."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append((batch.sample_ids, batch.boundaries, outputs["loss"].item()))


@pytest.fixture
def annotations(tmp_path, rows):
    lines = []
    for row in rows:
        scored = [
            {"step": step, "score": 0.0 if math.isnan(score) else score}
            for step, score in zip(row["steps"], row["mc"], strict=True)
        ]
        images = {"image": [name.rpartition("/")[2] for name in row["images"]]} if row["images"] else {}
        lines.append(json.dumps({**images, "question": row["question"], "steps_with_score": scored}) + "\n")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(lines))
    return path


def fit(model, annotations, folder, callbacks=(), accumulate=1, **options):
    data = VisualPRM400KDataModule(str(annotations), cache_dir=str(folder / "cache"), **options)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accumulate_grad_batches=accumulate,
        log_every_n_steps=1,
        default_root_dir=folder,
    )
    trainer.fit(model, data)
    return model


def test_gradients_of_packed_batches_accumulate(sharp_checkpoint, annotations, tmp_path):
    """An epoch of packed batches in one optimizer step moves the weights as the same batches, padded by hand, do."""
    losses, most = Losses(), 330
    options = {"learning_rate": 1e-2, "weight_decay": 0.0, "warmup_ratio": 0.0}
    model = ProcessRewardModel(str(sharp_checkpoint), optimizer=torch.optim.SGD, **options)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    fit(model, annotations, tmp_path, [losses, Throughput()], accumulate=3, packed_tokens=most)
    assert len(losses.batches) == 3
    assert sorted(int(name.rpartition(":")[2]) for ids, *_ in losses.batches for name in ids) == [1, 2, 3, 4, 5]
    assert max(len(ids) for ids, *_ in losses.batches) > 1
    assert all(boundaries[-1] <= most for _, boundaries, _ in losses.batches)

    labels = sum(not math.isnan(score) for *_, scores in ROWS for score in scores) + 1  # the missing one is given as 0
    reference = ProcessRewardModel(str(sharp_checkpoint), **options)
    table = {row["sample_id"]: row for row in read_rows([annotations], cache_dir=tmp_path / "cache")}
    for ids, _, loss in losses.batches:
        padded = reference.training_step(StepCollator(reference.encoder)([table[name] for name in ids]), 0)
        assert 3 * loss == pytest.approx(padded.item(), abs=1e-5)  # Lightning gives out its share of the step
        (padded / labels).backward()
    rate = 1e-2
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            moved = before[name] - rate * parameter.grad
            torch.testing.assert_close(dict(model.named_parameters())[name].detach(), moved, atol=1e-6, rtol=1e-4)


def test_a_family_that_cannot_pack_is_padded_by_length(sharp_checkpoint, annotations, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("lightning_modules.process_reward.packing_obstacle", lambda _: "the family 'x' cannot")
    losses = Losses()
    model = ProcessRewardModel(str(sharp_checkpoint))
    fit(model, annotations, tmp_path, [losses], packed_tokens=160, batch_size=2)
    lines = [record.message for record in caplog.records if "packed_tokens" in record.message]
    assert lines == [
        "packed_tokens: the family 'x' cannot; "
        "batches of batch_size=2 conversations of similar length are padded instead"
    ]
    assert [boundaries for _, boundaries, _ in losses.batches] == [None, None]
