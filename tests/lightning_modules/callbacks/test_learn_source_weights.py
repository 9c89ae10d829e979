"""Source weights through a training of a tiny model; gradients against autograd of the loss written out."""

import json

import pytest
import torch
from lightning.pytorch import Trainer

from datamodules.visual_prm_400k import VisualPRM400KDataModule
from lightning_modules.callbacks.learn_source_weights import LearnSourceWeights
from lightning_modules.process_reward import ProcessRewardModel
from lightning_modules.training.source_weights import head_gradients

STEPS = ["The digits are 3 , 7", "So 9", "So 2"]


def raw(question, scores, source):
    steps = [
        {"step": step, "score": score, "num_mc_correct": int(4 * score), "num_mc_total": 4}
        for step, score in zip(STEPS, scores, strict=False)
    ]
    return {"question": question, "answer": "1", "response": "x", "steps_with_score": steps, "source": source}


@pytest.fixture
def data(tmp_path, write_lines):
    train = [raw(f"How many {number}?", [1, 0.5, 0], "a" if number % 2 else "b") for number in range(6)]
    validation = [raw(f"Which {number}?", [1, 0], "c") for number in range(3)]
    return VisualPRM400KDataModule(
        train_annotations=[str(write_lines(tmp_path / "train.jsonl", train))],
        validation_annotations=[str(write_lines(tmp_path / "validation.jsonl", validation))],
        batch_size=2,
        eval_batch_size=2,
        cache_dir=str(tmp_path / "cache"),
    )


def test_a_training(sharp_checkpoint, data, tmp_path):
    learn = LearnSourceWeights(every_n_steps=1, rate=1.0)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        callbacks=[learn],
    )
    model = ProcessRewardModel(str(sharp_checkpoint), system_prompt="", learning_rate=1e-3)
    trainer.fit(model, datamodule=data)
    assert set(learn.learnt.weights) == {"a", "b"}
    assert sum(learn.learnt.weights.values()) == pytest.approx(2)
    assert learn.learnt.weights["a"] != 1
    assert json.loads((tmp_path / "source_weights.json").read_text()) == pytest.approx(learn.learnt.weights)
    again = LearnSourceWeights()
    again.load_state_dict(learn.state_dict())
    assert again.learnt.weights == learn.learnt.weights
    # The gradient of a source, with the whole graph: what the backward of its samples alone would give.
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    model.zero_grad()
    found = head_gradients(model.eval(), batch, by_source=True)
    whole = head_gradients(model, batch, by_source=False)[""]
    assert sum(gradient for gradient, _ in found.values()) == pytest.approx(whole[0], abs=1e-5)
    model.training_step(batch, 0).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.head.parameters()])
    assert whole[0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert whole[1] == sum(weight for _, weight in found.values()) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [({"every_n_steps": 0}, "every_n_steps"), ({"rate": 0}, "rate"), ({"least": 2}, "least and most")],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        LearnSourceWeights(**options)
