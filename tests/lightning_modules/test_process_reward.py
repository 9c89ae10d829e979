import json
import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from literal_scoring import (
    VERDICT,
    plus_probabilities,
    score_literally,
    tokenize_turns,
    vocabulary_logits,
    write_turns,
)
from PIL import ExifTags, Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from datamodules.batching.collate import StepCollator
from datamodules.batching.packing import pack
from datamodules.conversation.instructions import INSTRUCTIONS, with_template
from datamodules.storage.images import open_image
from datamodules.visual_prm_400k import VisualPRM400KDataModule
from lightning_modules.callbacks.process_bench import ProcessBench
from lightning_modules.objectives.past_verdicts import LabelsAsVerdicts
from lightning_modules.objectives.step_loss import LossOptions
from lightning_modules.process_reward import ProcessRewardModel
from lightning_modules.protocol import PROTOCOL_FILE, Protocol
from lightning_modules.scoring.calibration import Calibration

NAN = math.nan
ROWS = {
    # name: (question, pictures, steps, Monte Carlo scores)
    "one image": (
        "How many digits are larger than 4 ?",
        [1],
        ["The digits are 3 , 7", "So 9", "So 2"],
        [0.75, 0.25, 0],
    ),
    "text only": ("How many?", [], ["So the answer is \\boxed{9} ."], [1.0]),
    "two images": ("Is <image> larger than <image> ?", [2, 3], ["The digits are 3", "9", "So 7"], [0.5, NAN, 0.0]),
}


def trainer_in(folder, *callbacks):
    """A Trainer of one epoch that shows nothing."""
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )


@pytest.fixture
def folder_of_pictures(tmp_path, picture):
    for number in range(1, 4):
        picture(number).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture
def collate(folder_of_pictures):
    """Makes a batch of rows of the given names as the data module does."""

    def make(model, names, **options):
        rows = []
        for name in names:
            question, pictures, steps, scores = ROWS[name]
            rows.append(
                {
                    "sample_id": name,
                    "source": "test",
                    "images": [str(folder_of_pictures / f"{number}.png") for number in pictures],
                    "question": question,
                    "steps": steps,
                    "mc": scores,
                    "num_mc_correct": [-1] * len(steps),
                    "num_mc_total": [-1] * len(steps),
                }
            )
        return StepCollator(model.encoder, model.protocol.max_steps, **options)(rows)

    return make


def literal_scores(model, picture, name):
    question, pictures, steps, _ = ROWS[name]
    images = [picture(number) for number in pictures]
    return score_literally(model.backbone, model.processor, images, question, steps, model.protocol.system_prompt)


def step_terms(model, picture, name):
    """Minus log probability of the right verdict on each step that has a score."""
    return [
        -math.log(probability if score > model.protocol.threshold else 1 - probability)
        for probability, score in zip(literal_scores(model, picture, name), ROWS[name][3], strict=True)
        if not math.isnan(score)
    ]


# ------------------------------------------------------------------- training


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_loss_is_the_mean_over_the_scored_steps(sharp_checkpoint, picture, collate, threshold):
    model = ProcessRewardModel(str(sharp_checkpoint), threshold=threshold, system_prompt="")
    terms = [term for name in ROWS for term in step_terms(model, picture, name)]
    assert len(terms) == 6
    loss = model.training_step(collate(model, ROWS), 0)
    assert loss.item() / len(terms) == pytest.approx(sum(terms) / len(terms), abs=1e-5)


def test_a_batch_without_scores_teaches_nothing(sharp_checkpoint, collate):
    model = ProcessRewardModel(str(sharp_checkpoint))
    batch = collate(model, ["text only"])
    batch.mc.fill_(NAN)
    loss = model.training_step(batch, 0)
    loss.backward()
    assert loss.item() == 0.0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def language_model_terms(model, picture, name):
    """Of each right step, minus log probability of its tokens on average, found by writing the conversation out."""
    question, pictures, steps, mc = ROWS[name]
    tokenizer = model.processor.tokenizer
    turns = write_turns(question, len(pictures), steps, model.protocol.system_prompt)
    ids, _ = tokenize_turns(model.processor, turns)
    logits = vocabulary_logits(model.backbone, model.processor, [picture(number) for number in pictures], ids)
    log_probabilities = logits.double().log_softmax(-1)
    terms, begin, step = [], 0, 0
    for turn in turns:
        length = len(tokenizer(turn, add_special_tokens=False)["input_ids"])
        if turn not in (VERDICT, f"<|system|>{model.protocol.system_prompt}<|end|>"):
            text = tokenizer(steps[step], add_special_tokens=False)["input_ids"]
            end = begin + length - 1  # the end token is not part of the step
            assert ids[end - len(text) : end] == text
            if mc[step] > 0:
                of_tokens = [-log_probabilities[at - 1, ids[at]].item() for at in range(end - len(text), end)]
                terms.append(sum(of_tokens) / len(of_tokens))
            step += 1
        begin += length
    assert step == len(steps)
    return terms


@pytest.mark.parametrize("system_prompt", ["", "You check ."])
def test_the_language_model_loss_is_of_the_tokens_of_right_steps(sharp_checkpoint, picture, collate, system_prompt):
    model = ProcessRewardModel(str(sharp_checkpoint), language_model_weight=0.3, system_prompt=system_prompt)
    steps = [term for name in ROWS for term in step_terms(model, picture, name)]
    texts = [term for name in ROWS for term in language_model_terms(model, picture, name)]
    assert (len(steps), len(texts)) == (6, 4)
    loss = model.training_step(collate(model, ROWS, mark_step_tokens=True), 0)
    # Both are means over the 6 labelled steps; a wrong one has no text to be imitated.
    assert loss.item() / 6 == pytest.approx(sum(steps) / 6 + 0.3 * sum(texts) / 6, rel=1e-5)


def test_marked_tokens_are_an_exact_list(sharp_checkpoint, collate):
    model = ProcessRewardModel(str(sharp_checkpoint), system_prompt="")
    batch = collate(model, ["one image", "text only"], mark_step_tokens=True)
    tokenizer = model.processor.tokenizer
    marked = [
        [tokenizer.convert_ids_to_tokens(ids[mask]) for mask in of_row]
        for ids, of_row in zip(batch.inputs["input_ids"], batch.step_tokens, strict=True)
    ]
    assert marked == [
        [tokenizer.tokenize(step) for step in ROWS["one image"][2]],
        [tokenizer.tokenize("So the answer is \\boxed{9} ."), [], []],
    ]


def test_no_step_is_right(sharp_checkpoint, collate):
    model = ProcessRewardModel(str(sharp_checkpoint), language_model_weight=1.0)
    batch = collate(model, ["text only"], mark_step_tokens=True)
    batch.mc.zero_()
    probability = model.scores_from_logits(model(batch))[0, 0].item()
    assert model.training_step(batch, 0).item() == pytest.approx(-math.log(1 - probability), abs=1e-5)


def next_token_losses(model, picture, name):
    """Of each scored step, the mean loss of verdict and end token, over the vocabulary and with true verdicts."""
    question, pictures, steps, mc = ROWS[name]
    turns = write_turns(question, len(pictures), steps, model.protocol.system_prompt)
    # A step without a score is wrong in the released conversion.
    verdicts = iter("+" if score > 0 else "-" for score in mc)
    turns = [turn.replace("+", next(verdicts)) if turn == VERDICT else turn for turn in turns]
    ids, _ = tokenize_turns(model.processor, turns)
    logits = vocabulary_logits(model.backbone, model.processor, [picture(number) for number in pictures], ids)
    log_probabilities = logits.double().log_softmax(-1)
    losses, end = [], 0
    for turn in turns:
        end += len(model.processor.tokenizer(turn, add_special_tokens=False)["input_ids"])
        if turn in (VERDICT, VERDICT.replace("+", "-")):
            verdict, end_token = (-log_probabilities[at - 1, ids[at]].item() for at in (end - 2, end - 1))
            losses.append((verdict + end_token) / 2)
    return [loss for loss, score in zip(losses, mc, strict=True) if not math.isnan(score)]


@pytest.mark.parametrize("is_packed", [False, True])
def test_training_as_released(sharp_checkpoint, picture, collate, is_packed):
    """True verdicts in the input, and the loss of verdict and end token over the whole vocabulary."""
    options = LossOptions(language_model_loss_on_verdicts=True)
    model = ProcessRewardModel(str(sharp_checkpoint), loss=options, past_verdicts="labels", system_prompt="")
    verdicts = LabelsAsVerdicts("value", 0.0, ("+", "-"))
    batch = collate(model, ROWS, verdicts=verdicts)
    if is_packed:
        batch = pack(batch)
    terms = [term for name in ROWS for term in next_token_losses(model, picture, name)]
    loss = model.training_step(batch, 0)
    assert loss.item() / 6 == pytest.approx(sum(terms) / 6, rel=1e-5)
    loss.backward()
    assert model.backbone.lm_head.weight.grad.abs().sum() > 0
    assert model.head.weight.grad.abs().sum() > 0
    # Its rows of the class tokens are not read: they are trained in the step head.
    assert not model.backbone.lm_head.weight.grad[model.head.token_ids].any()


def test_what_is_trained(sharp_checkpoint, collate):
    """The language-model head takes part in the language-model loss alone."""
    for weight in (0.0, 0.5):
        model = ProcessRewardModel(str(sharp_checkpoint), language_model_weight=weight)
        model.training_step(collate(model, ROWS, mark_step_tokens=weight > 0), 0).backward()
        without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        # The vision tower's last feature layer feeds the language model; nothing trainable is left without gradient.
        assert without == set()
        assert model.head.weight.grad.abs().sum() > 0
        assert (model.backbone.lm_head.weight.grad is not None) == (weight > 0)


# ----------------------------------------------------------------- validation


class Outputs(Callback):
    """Keeps the step scores of each sample that a callback is given."""

    def __init__(self):
        self.scores = {}

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.scores |= zip(batch.sample_ids, outputs.step_scores, strict=True)


def test_validation_through_a_trainer(sharp_checkpoint, picture, folder_of_pictures, tmp_path):
    """Loss, F1 and AUROC of the process split, counted by hand from literal scores."""
    lines = []
    for question, pictures, steps, scores in ROWS.values():
        counts = [(0, 0) if math.isnan(score) else (round(4 * score), 4) for score in scores]
        scored = [
            {"step": step, "score": n / 4, "num_mc_correct": n, "num_mc_total": total}
            for step, (n, total) in zip(steps, counts, strict=True)
        ]
        row = {"image": [f"{n}.png" for n in pictures], "question": question, "steps_with_score": scored}
        lines.append(json.dumps(row) + "\n")
    (folder_of_pictures / "rows.jsonl").write_text("".join(lines))
    model = ProcessRewardModel(str(sharp_checkpoint))
    data = VisualPRM400KDataModule(
        validation_annotations=[str(folder_of_pictures / "rows.jsonl")],
        eval_batch_size=1,
        cache_dir=str(tmp_path / "cache"),
    )
    outputs = Outputs()
    (logged,) = trainer_in(tmp_path, outputs).validate(model, datamodule=data, verbose=False)
    model.eval()
    assert list(outputs.scores) == [f"{folder_of_pictures / 'rows.jsonl'}:{number}" for number in (1, 2, 3)]
    for name, (scores,) in zip(ROWS, outputs.scores.values(), strict=True):
        assert scores.tolist() == pytest.approx(literal_scores(model, picture, name), abs=1e-5)
    losses, judged = [], []
    for name, (_, _, _, mc) in ROWS.items():
        losses += step_terms(model, picture, name)
        judged += [pair for pair in zip(literal_scores(model, picture, name), mc, strict=True) if pair[1] == pair[1]]
    assert logged["validation/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    right = [probability for probability, score in judged if score > 0]
    wrong = [probability for probability, score in judged if score == 0]
    assert (len(right), len(wrong)) == (4, 2)
    wins = sum((a > b) + (a == b) / 2 for a in right for b in wrong)
    assert logged["validation/auroc"] == pytest.approx(wins / (len(right) * len(wrong)))
    both = [
        2 * hits / (2 * hits + misses)
        for hits, misses in [
            (sum(p >= 0.5 for p in right), sum(p < 0.5 for p in right) + sum(p >= 0.5 for p in wrong)),
            (sum(p < 0.5 for p in wrong), sum(p >= 0.5 for p in wrong) + sum(p < 0.5 for p in right)),
        ]
    ]
    assert logged["validation/macro_f1"] == pytest.approx(sum(both) / 2)


# -------------------------------------------------------------------- scoring


def test_forward_equals_literal_scores(sharp_checkpoint, picture, collate):
    model = ProcessRewardModel(str(sharp_checkpoint))
    batch = collate(model, ROWS)
    scores = model.scores_from_logits(model(batch))
    for row, name in enumerate(ROWS):
        expected = literal_scores(model, picture, name)
        assert scores[row, : len(expected)].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("images", "question"),
    [([], "How many?"), ([1], "How many digits?"), ([2, 3], "Is <image> larger than <image> ?")],
)
def test_score(sharp_checkpoint, picture, images, question):
    model = ProcessRewardModel.from_pretrained(sharp_checkpoint)
    assert not model.training
    opened = [picture(number) for number in images]
    responses = ["The digits are 3\n\nSo 7\n\n\n\n 9 ", "So the answer is 2", "", "The digits are 3\n\nSo 7"]
    scored = model.score(opened, question, responses)
    assert scored.steps == [
        ["The digits are 3", "So 7", "9"],
        ["So the answer is 2"],
        [""],
        ["The digits are 3", "So 7"],
    ]
    for steps, scores, response_score in zip(scored.steps, scored.step_scores, scored.response_scores, strict=True):
        expected = score_literally(
            model.backbone, model.processor, opened, question, steps, model.protocol.system_prompt
        )
        assert scores == pytest.approx(expected, abs=1e-5)
        assert response_score == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_one_picture_or_none_may_be_given_bare(sharp_checkpoint, picture):
    model = ProcessRewardModel.from_pretrained(sharp_checkpoint)
    assert model.score(picture(1), "How many?", ["7"]) == model.score([picture(1)], "How many?", ["7"])
    assert model.score(None, "How many?", ["7"]) == model.score((), "How many?", ["7"])


@pytest.mark.parametrize(("aggregation", "combine"), [("min", min), ("last", lambda s: s[-1]), ("product", math.prod)])
def test_aggregation(sharp_checkpoint, aggregation, combine):
    model = ProcessRewardModel.from_pretrained(sharp_checkpoint, aggregation=aggregation)
    scored = model.score(None, "How many?", ["The digits are 3\n\nSo 7\n\n9"])
    assert scored.response_scores == [pytest.approx(combine(scored.step_scores[0]))]


def test_an_outcome_model_reads_a_response_as_one_step(sharp_checkpoint):
    model = ProcessRewardModel.from_pretrained(sharp_checkpoint, objective="outcome", system_prompt="")
    scored = model.score(None, "How many?", ["The digits are 3\n\nSo 7", "9"])
    assert scored.steps == [["The digits are 3\n\nSo 7"], ["9"]]
    for steps, scores in zip(scored.steps, scored.step_scores, strict=True):
        expected = score_literally(model.backbone, model.processor, [], "How many?", steps, "")
        assert scores == pytest.approx(expected, abs=1e-5)
        assert len(scores) == 1


def test_long_responses_have_steps_merged(sharp_checkpoint):
    model = ProcessRewardModel.from_pretrained(sharp_checkpoint, max_steps=3)
    scored = model.score(None, "How many?", ["1\n\n2\n\n3\n\n4\n\n5"])
    assert scored.steps == [["1\n\n2", "3\n\n4", "5"]]


def test_scoring_leaves_mode_and_gradients_alone(sharp_checkpoint):
    model = ProcessRewardModel(str(sharp_checkpoint)).train()
    model.score(None, "How many?", ["7"])
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_pictures_are_read_as_in_training(sharp_checkpoint, tmp_path):
    """Whatever a file holds: 16-bit values, transparency, a rotation; opened by the caller or by us."""
    model = ProcessRewardModel.from_pretrained(sharp_checkpoint)
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 4)).astype(np.uint8)
    Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(values, "RGBA").save(tmp_path / "transparent.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(values[..., :3]).save(tmp_path / "turned.png", exif=exif)
    for name in ("deep.png", "transparent.png", "turned.png"):
        decoded = open_image(tmp_path / name, name)
        expected = model.score(decoded, "How many?", ["So 2\n\nSo 9"]).step_scores
        with Image.open(tmp_path / name) as image:
            assert model.score(image, "How many?", ["So 2\n\nSo 9"]).step_scores == expected, name


def test_wrong_arguments_of_score(sharp_checkpoint, picture):
    model = ProcessRewardModel.from_pretrained(sharp_checkpoint)
    with pytest.raises(ValueError, match=r"^score\(\): every question needs a candidate"):
        model.score(None, "How many?", [])
    with pytest.raises(TypeError, match=r"score\(\): responses must be a list of texts"):
        model.score(None, "How many?", "So 3")
    with pytest.raises(TypeError, match=r"^score\(\): picture 1 must be a PIL image, got str; open it first"):
        model.score([picture(1), "picture.png"], "How many?", ["2"])
    with pytest.raises(TypeError, match=r"^score\(\): picture 0 must be a PIL image, got str"):
        model.score("picture.png", "How many?", ["2"])
    with pytest.raises(ValueError, match=r"^score\(\): the question has 1 <image> placeholders for 2 images"):
        model.score([picture(1), picture(2)], "See <image>", ["7"])
    with pytest.raises(ValueError, match=r"^score\(\): step 0: the text holds the special token"):
        model.score(None, "How many?", ["<|end|>"])


# ---------------------------------------------------------------- persistence


@pytest.mark.parametrize("language_model_weight", [0.0, 1.0])
def test_a_plain_model_gives_the_same_probabilities(
    sharp_checkpoint, picture, collate, tmp_path, language_model_weight
):
    model = ProcessRewardModel(
        str(sharp_checkpoint), system_prompt="You check .", language_model_weight=language_model_weight
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.training_step(collate(model, ROWS, mark_step_tokens=True), 0).backward()
    optimizer.step()
    model.eval().save_pretrained(tmp_path / "export")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "export").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "export")
    untrained = ProcessRewardModel.from_pretrained(sharp_checkpoint, system_prompt="You check .")
    again = ProcessRewardModel.from_pretrained(tmp_path / "export")
    for question, pictures, steps, _ in ROWS.values():
        images = [picture(number) for number in pictures]
        scores = model.score(images, question, ["\n\n".join(steps)])
        ids, positions = tokenize_turns(processor, write_turns(question, len(images), steps, "You check ."))
        logits = vocabulary_logits(plain, processor, images, ids)[positions]
        assert scores.step_scores[0] == pytest.approx(plus_probabilities(processor, logits).tolist(), abs=1e-5)
        before = untrained.score(images, question, ["\n\n".join(steps)])
        assert scores.step_scores[0] != pytest.approx(before.step_scores[0], abs=1e-4)
        assert again.score(images, question, ["\n\n".join(steps)]) == scores


def test_the_protocol_is_stored_and_taken_up(sharp_checkpoint, tmp_path):
    model = ProcessRewardModel(
        str(sharp_checkpoint),
        objective="outcome",
        threshold=0.25,
        system_prompt="",
        max_steps=5,
        aggregation="min",
    )
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / PROTOCOL_FILE).read_text()) == {
        "objective": "outcome",
        "threshold": 0.25,
        "system_prompt": "",
        "max_steps": 5,
        "aggregation": "min",
        "class_tokens": ["+", "-"],
        "image_layout": "first",
        "question_text": "bare",
        "pictures": "ours",
        "white_space": "ours",
        "past_verdicts": "placeholder",
    }
    assert ProcessRewardModel.from_pretrained(tmp_path).protocol == model.protocol
    # What is given goes before what is stored, 0 and the empty text too.
    other = ProcessRewardModel.from_pretrained(tmp_path, threshold=0.0, aggregation="last")
    assert other.protocol == Protocol("outcome", 0.0, "", 5, "last")


def test_the_step_threshold_goes_with_the_weights_and_the_protocol(sharp_checkpoint, tmp_path):
    model = ProcessRewardModel(str(sharp_checkpoint), system_prompt="")
    model.protocol = replace(model.protocol, step_threshold=0.625, step_threshold_chosen_on="v.jsonl")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / PROTOCOL_FILE).read_text())["step_threshold"] == 0.625
    again = ProcessRewardModel.from_pretrained(tmp_path)
    assert again.protocol == model.protocol
    # How responses are summed up does not change the scores of steps; how they are read does.
    assert ProcessRewardModel.from_pretrained(tmp_path, aggregation="min").protocol.step_threshold == 0.625
    assert ProcessRewardModel.from_pretrained(tmp_path, system_prompt="").protocol.step_threshold == 0.625
    other = ProcessRewardModel.from_pretrained(tmp_path, system_prompt="Judge.").protocol
    assert (other.step_threshold, other.step_threshold_chosen_on) == (None, None)


def test_uncertainties_beside_the_scores(sharp_checkpoint, picture, tmp_path):
    """They come from logits as the language-model head has them, so that an exported folder gives the same."""
    question, pictures, steps, _ = ROWS["one image"]
    model = ProcessRewardModel(str(sharp_checkpoint), objective="beta_binomial", system_prompt="")
    images = [picture(number) for number in pictures]
    scored = model.score(images, question, ["\n\n".join(steps)])
    ids, positions = tokenize_turns(model.processor, write_turns(question, 1, steps, ""))
    logits = vocabulary_logits(model.backbone, model.processor, images, ids)[positions][
        :, model.encoder.class_token_ids
    ]
    for first, second, score, unsure in zip(
        *logits.double().T.tolist(), scored.step_scores[0], scored.step_uncertainties[0], strict=True
    ):
        sure = math.log1p(math.exp(first) + math.exp(second))
        assert score == pytest.approx(1 / (1 + math.exp(second - first)), abs=1e-5)
        assert unsure == pytest.approx(math.sqrt(score * (1 - score) / (sure + 1)), abs=1e-5)
    model.save_pretrained(tmp_path)
    again = ProcessRewardModel.from_pretrained(tmp_path).score(images, question, ["\n\n".join(steps)])
    assert again.step_uncertainties[0] == pytest.approx(scored.step_uncertainties[0], abs=1e-5)
    assert ProcessRewardModel(str(sharp_checkpoint)).score(None, question, ["a"]).step_uncertainties is None


@pytest.mark.parametrize(
    ("calibration", "expected"),
    [
        (Calibration("temperature", "v.jsonl", temperature=2.0), lambda p: 1 / (1 + math.sqrt(1 / p - 1))),
        (Calibration("isotonic", "v.jsonl", scores=[0.0, 1.0], values=[0.25, 0.75]), lambda p: 0.25 + p / 2),
    ],
    ids=["temperature", "isotonic"],
)
def test_the_calibration_goes_with_the_weights(sharp_checkpoint, picture, tmp_path, calibration, expected):
    """An exported folder and a checkpoint hold it, and every way to score applies it; the card's program, too."""
    question, pictures, steps, _ = ROWS["one image"]
    model = ProcessRewardModel(str(sharp_checkpoint), system_prompt="")
    asked = [picture(number) for number in pictures], question, ["\n\n".join(steps)]
    raw = model.score(*asked).step_scores[0]
    model.protocol = replace(model.protocol, calibration=calibration)
    model.save_pretrained(tmp_path)
    loaded = ProcessRewardModel.from_pretrained(tmp_path)
    assert loaded.protocol == model.protocol
    assert loaded.score(*asked).step_scores[0] == pytest.approx([expected(p) for p in raw], abs=1e-5)
    checkpoint = {"state_dict": {}, "epoch": 0, "global_step": 0}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["calibration"] == asdict(calibration)
    again = ProcessRewardModel(str(sharp_checkpoint), system_prompt="")
    again.on_load_checkpoint(checkpoint)
    assert again.protocol == model.protocol
    card = (tmp_path / "README.md").read_text()
    assert f"Step scores are calibrated: {calibration.method}, fitted on v\\.jsonl" in card.replace(
        "v.jsonl", "v\\.jsonl"
    )
    program = re.search(r"```python\n(import .*?)```", card, re.DOTALL)[1]
    program = program.replace("How much is 2 + 3?", question)
    program = re.sub(r"^steps = .*$", lambda _: f"steps = {steps!r}", program, flags=re.MULTILINE)
    picture(1).save(tmp_path / "picture.png")
    namespace = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(program, namespace)
    assert namespace["scores"] == pytest.approx([expected(p) for p in raw], abs=1e-5)


def test_fit_chooses_a_step_threshold_that_test_takes_from_the_checkpoint(
    sharp_checkpoint, folder_of_pictures, tmp_path, write_lines
):
    def raw(question, scores):
        steps = [
            {"step": f"step {i}", "score": s, "num_mc_correct": int(4 * s), "num_mc_total": 4}
            for i, s in enumerate(scores)
        ]
        return {"image": "1.png", "question": question, "answer": "1", "response": "x", "steps_with_score": steps}

    train = write_lines(folder_of_pictures / "train.jsonl", [raw("How many?", [1, 0.5])])
    validation = write_lines(
        folder_of_pictures / "validation.jsonl", [raw("Which?", [1, 0]), raw("Why?", [0.25, 0, 0]), raw("Who?", [1])]
    )
    judged = {
        "image": ["2.png"],
        "question": "Is it?",
        "answer": "1",
        "response": {"steps": ["a", "b", "c"], "process_correctness": [1, -1, 0]},
        "policy_model": "p",
        "data_source": "MMMU",
    }
    write_lines(folder_of_pictures / "test.jsonl", [judged])

    def run(function, checkpoint=None):
        judge = ProcessBench("validation", output_dir=str(tmp_path / function))
        trainer = trainer_in(tmp_path, judge, ModelCheckpoint(tmp_path, "last"))
        model = ProcessRewardModel(str(sharp_checkpoint), system_prompt="", learning_rate=1e-3)
        data = VisualPRM400KDataModule(
            train_annotations=[str(train)],
            validation_annotations=[str(validation)] if function == "fit" else None,
            visual_process_bench=str(folder_of_pictures),
            cache_dir=str(tmp_path / "cache"),
        )
        getattr(trainer, function)(model, datamodule=data, **({"ckpt_path": checkpoint} if checkpoint else {}))
        return model

    fitted = run("fit")
    chosen = fitted.protocol
    assert chosen.step_threshold is not None
    assert chosen.step_threshold_chosen_on.startswith(f"{validation} (6 labelled steps of 3 solutions, macro F1 ")
    tested = run("test", str(tmp_path / "last.ckpt"))
    assert tested.protocol == chosen
    stored = json.loads((tmp_path / "test" / "process_bench_test.json").read_text())
    assert (stored["threshold"], stored["threshold_source"]) == (chosen.step_threshold, "validation")
    assert stored["threshold_chosen_on"] == chosen.step_threshold_chosen_on
    with pytest.raises(ValueError, match="'validation' needs a process validation split to choose on"):
        run("test")  # weights without a threshold, data without a split


def test_the_system_prompt_of_the_data(sharp_checkpoint, tmp_path, write_lines):
    """Taken from conversation rows at `fit`, kept in checkpoints, never used before it is known."""
    turns = [
        ("system", "You check ."),
        ("human", "### Question:\nHow many?\n\n### Solution Process:\nSo 3"),
        ("gpt", "+"),
        ("human", "So 7"),
        ("gpt", "-"),
    ]
    row = {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}
    path = write_lines(tmp_path / "rows.jsonl", [row, row])

    def model(**options):
        return ProcessRewardModel(str(sharp_checkpoint), **{"preset": "visualprm_400k_v1_1"} | options)

    def trainer():
        return trainer_in(tmp_path, ModelCheckpoint(tmp_path, "last"))

    untrained = model()
    assert untrained.protocol.max_steps == 16
    assert untrained.encoder.rules == untrained.protocol.reading_rules
    for use in (
        lambda: untrained.score(None, "How many?", ["So 3"]),
        lambda: untrained.save_pretrained(tmp_path / "x"),
    ):
        with pytest.raises(ValueError, match="system_prompt is 'from_data'"):
            use()
    data = VisualPRM400KDataModule(train_annotations=[str(path)], cache_dir=str(tmp_path / "cache"))
    trainer().fit(untrained, datamodule=data)
    assert untrained.protocol.system_prompt == untrained.encoder.system_prompt == "You check ."
    validation = VisualPRM400KDataModule(validation_annotations=[str(path)], cache_dir=str(tmp_path / "cache"))
    loaded = model()
    with pytest.raises(ValueError, match="system_prompt is 'from_data'"):
        trainer().validate(loaded, datamodule=validation)
    trainer().validate(loaded, datamodule=validation, ckpt_path=str(tmp_path / "last.ckpt"))
    assert loaded.protocol == untrained.protocol
    untrained.save_pretrained(tmp_path / "export")
    assert ProcessRewardModel.from_pretrained(tmp_path / "export").protocol.system_prompt == "You check ."


def test_the_question_that_is_scored(sharp_checkpoint, picture):
    asked = with_template("How many?", INSTRUCTIONS["boxed"])
    bare = ProcessRewardModel.from_pretrained(sharp_checkpoint)
    as_asked = ProcessRewardModel.from_pretrained(sharp_checkpoint, question_text="as_asked")
    responses = ["So 3\n\nSo 7"]
    scores = bare.score(picture(1), "How many?", responses)
    assert bare.score(picture(1), asked, responses) == scores
    assert as_asked.score(picture(1), "How many?", responses).step_scores == scores.step_scores
    other = as_asked.score(picture(1), asked, responses).step_scores[0]
    assert max(abs(a - b) for a, b in zip(other, scores.step_scores[0], strict=True)) > 1e-3
