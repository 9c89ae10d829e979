"""An objective is one entry of the table: a made-up one is trained and scored without any other change."""

import math
from typing import get_args

import pytest
import torch
from jsonargparse import ArgumentParser
from literal_scoring import tokenize_turns, vocabulary_logits, write_turns

from datamodules.batching.collate import StepCollator
from lightning_modules.objectives.step_loss import LossOptions, StepLoss
from lightning_modules.objectives.step_validation import StepValidation
from lightning_modules.objectives.table import OBJECTIVES, Objective, ObjectiveName, one_hot_targets
from lightning_modules.process_reward import ProcessRewardModel
from lightning_modules.protocol import Protocol

QUESTION, STEPS, MC = "How many digits are larger than 4 ?", ["The digits are 3 , 7", "So 9", "So 2"], [1.0, 0.5, 0.0]
VALUES = (1.0, 0.25, 0.0)


def grades(mc, question_accuracy, threshold):
    """Certain, doubtful and hopeless steps."""
    labels = torch.where(mc == 1, 0, torch.where(mc > threshold, 1, 2)).masked_fill(mc.isnan(), -100)
    return one_hot_targets(labels, 3, mc.dtype)


def half_squared_error(logits, targets, class_weights):
    """The Brier score of all classes."""
    return (class_weights * (logits.softmax(-1) - targets).square()).sum(-1) / 2


@pytest.fixture
def graded(monkeypatch):
    entry = Objective(
        name="graded",
        card_sentence="whether a step is certain, doubtful at {threshold:g}, or hopeless",
        targets=grades,
        loss=half_squared_error,
        loss_options=frozenset({"averaging"}),
        class_tokens=("+", "=", "-"),
        class_values=VALUES,
    )
    monkeypatch.setitem(OBJECTIVES, entry.name, entry)
    return entry


def literal_probabilities(model):
    """(S, 3) probabilities of +, = and - from logits of the whole vocabulary."""
    ids, positions = tokenize_turns(model.processor, write_turns(QUESTION, 0, STEPS, model.protocol.system_prompt))
    logits = vocabulary_logits(model.backbone, model.processor, [], ids)[positions]
    tokens = [model.processor.tokenizer(token, add_special_tokens=False)["input_ids"][-1] for token in "+=-"]
    return logits[:, tokens].double().softmax(-1).tolist()


def batch_of(model):
    row = {"sample_id": "a", "source": "test", "images": [], "question": QUESTION, "steps": STEPS, "mc": MC}
    row |= {"num_mc_correct": [-1] * 3, "num_mc_total": [-1] * 3}
    return StepCollator(model.encoder, model.protocol.max_steps)([row])


def test_a_new_objective_trains_scores_and_is_exported(graded, sharp_checkpoint, tmp_path):
    model = ProcessRewardModel(str(sharp_checkpoint), objective="graded", threshold=0.25)
    batch = batch_of(model)
    expected = 0.0
    for label, probabilities in enumerate(literal_probabilities(model)):  # mc of 1, 0.5 and 0 are classes 0, 1 and 2
        expected += sum((p - (k == label)) ** 2 for k, p in enumerate(probabilities)) / 2
    loss = model.training_step(batch, 0)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=1e-3).step()
    assert model.training_step(batch, 0).item() < expected
    model.eval().save_pretrained(tmp_path)
    again = ProcessRewardModel.from_pretrained(tmp_path)
    assert again.protocol == Protocol("graded", 0.25)
    assert (again.protocol.class_tokens, again.protocol.score_range) == (["+", "=", "-"], (0.0, 1.0))
    scored = again.score(None, QUESTION, ["\n\n".join(STEPS)])
    worth = [sum(v * p for v, p in zip(VALUES, row, strict=True)) for row in literal_probabilities(again)]
    assert scored.step_scores[0] == pytest.approx(worth, abs=1e-5)
    card = (tmp_path / "README.md").read_text()
    assert "- Objective: whether a step is certain, doubtful at 0.25, or hopeless (`graded`)." in card
    assert "torch.tensor([1.0, 0.25, 0.0])" in card


def test_the_options_of_a_new_objective(graded):
    assert StepLoss("graded", 0.0, LossOptions(averaging="sample")).num_classes == 3
    with pytest.raises(ValueError, match=r"loss.early_stop does not go with objective 'graded', only with value, "):
        StepLoss("graded", 0.0, LossOptions(early_stop=True))
    assert not StepValidation(Protocol("graded")).learns_mc


@pytest.mark.parametrize("kind", [StepLoss, Protocol])
def test_an_unknown_objective_is_refused(kind):
    with pytest.raises(ValueError, match=r"^objective must be one of value, .*beta_binomial, got 'best'"):
        kind("best", 0.0)


def test_the_command_line_offers_the_objectives_of_the_table():
    assert get_args(ObjectiveName) == tuple(OBJECTIVES)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ProcessRewardModel, "model")
    model = {"class_path": "lightning_modules.process_reward.ProcessRewardModel"}
    for name in OBJECTIVES:
        given = model | {"init_args": {"model_name_or_path": "x", "objective": name}}
        assert parser.parse_object({"model": given}).model.init_args.objective == name
    with pytest.raises(Exception, match="objective"):
        parser.parse_object({"model": model | {"init_args": {"model_name_or_path": "x", "objective": "best"}}})


def test_each_entry_agrees_with_itself():
    mc = torch.tensor([[1.0, 0.5, math.nan, 0.0]])
    for name, entry in OBJECTIVES.items():
        assert entry.name == name
        assert len(entry.class_tokens) == len(entry.class_values)
        assert list(entry.class_values) == sorted(entry.class_values, reverse=True)
        targets = entry.targets(mc, torch.tensor([0.5]), 0.25)
        assert targets.shape == (1, 4, len(entry.class_values))
        assert targets.isnan().any(-1).tolist()[0][:3] == [False, False, True]
        assert torch.allclose(targets[0, :2].sum(-1), torch.ones(2))
        assert entry.loss_options <= set(vars(LossOptions()))
        entry.card_sentence.format(threshold=0.25)
