"""The policy's loss, against the loss that the models of `transformers` compute themselves."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from cli_runs import visualprm
from PIL import Image
from transformers import AutoModelForCausalLM

from datamodules.conversation.labels import IGNORE_INDEX
from datamodules.policy.chat import ChatRenderer
from datamodules.policy.demonstrations import SupervisedBatch, SupervisedCollator
from datamodules.policy.prompt_batches import PromptCollator
from datamodules.policy.prompt_rows import grade_by_answer
from datamodules.policy.prompts import Prompt
from datamodules.rollouts.records import parse_rollout
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.policy import Policy


@pytest.mark.parametrize("name", ["gemma2_text", "qwen3_text"])
def test_the_loss_is_that_of_the_family(family_checkpoint, name):
    """Gemma 2 caps its logits."""
    plain = AutoModelForCausalLM.from_pretrained(family_checkpoint(name)).eval()
    if name == "gemma2_text":
        plain.config.final_logit_softcapping = 2.0
    policy = Policy(str(family_checkpoint(name))).eval()
    policy.backbone.config.final_logit_softcapping = getattr(plain.config, "final_logit_softcapping", None)
    ids = (torch.arange(24).reshape(2, 12) * 7) % 80 + 270
    labels = ids.clone()
    labels[0, :5], labels[1, :8] = IGNORE_INDEX, IGNORE_INDEX
    batch = SupervisedBatch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels, ["a", "b"])
    with torch.no_grad():
        expected = plain(input_ids=ids, labels=labels).loss
        # 7 and 4 response tokens, whose losses are summed up to be divided by their number in the global batch.
        torch.testing.assert_close(policy.training_step(batch, 0) / 11, expected)


@pytest.mark.parametrize("name", ["internvl_qwen2", "qwen2_5_vl", "qwen3_text"])
def test_demonstrations_in_a_row_have_the_same_losses_and_gradients(family_checkpoint, tmp_path, name):
    """With 1, 0 and 2 pictures, plain and multimodal positions."""
    policy = Policy(str(family_checkpoint(name))).eval()
    has_pictures = hasattr(policy.processor, "image_processor")
    for number in range(3):
        Image.effect_noise((64, 64), 50 + number).convert("RGB").save(tmp_path / f"{number}.png")
    solutions = [
        (["0.png"], "So 7.\n\nThe digits are 3, 7 and 9.", "Which digits are even?"),
        ([], "So 2.", "How many digits are larger than 4?"),
        (["1.png", "2.png"], "7", "Is it larger?"),
    ]
    prompts = []
    for index, (names, response, question) in enumerate(solutions):
        pictures = [Image.open(tmp_path / name) for name in names if has_pictures]
        load, grade = partial(list, pictures), grade_by_answer("2")
        prompts.append(Prompt(f"p{index}", question, (), "2", "test", load, grade, response))
    found = []
    for padding_free in (False, True):
        batch = SupervisedCollator(ChatRenderer(policy.processor), padding_free)(prompts)
        losses, is_hit, sample = policy._judge(batch)
        policy.zero_grad()
        policy.training_step(batch, 0).backward()
        gradients = {key: p.grad.clone() for key, p in policy.named_parameters() if p.grad is not None}
        found.append((losses.detach(), is_hit, sample, gradients))
    (losses, is_hit, sample, expected), (others, other_hits, other_samples, gradients) = found
    assert losses.std() > 0.01
    torch.testing.assert_close(others, losses, atol=1e-5, rtol=0)
    assert torch.equal(is_hit, other_hits)
    assert torch.equal(sample, other_samples)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        assert (gradient - expected[key]).abs().max() <= 1e-5 + 1e-4 * expected[key].abs().max(), key


def test_a_configuration_with_the_former_name_of_the_warmup_ratio(tiny_world, tiny_checkpoint, tmp_path):
    model = {"model_name_or_path": str(tiny_checkpoint), "warmup_share": 0.25}
    data = {"demonstrations": str(tiny_world / "demonstrations" / "annotations.jsonl"), "batch_size": 4}
    config = {
        "model": {"class_path": "lightning_modules.policy.Policy", "init_args": model},
        "data": {"class_path": "datamodules.prompts_datamodule.PromptDataModule", "init_args": data},
        "trainer": {"accelerator": "cpu", "default_root_dir": str(tmp_path), "fast_dev_run": True},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    policy = visualprm(tmp_path, "fit", f"--config={tmp_path / 'config.yaml'}").model
    assert policy.hparams["warmup_ratio"] == 0.25
    assert "warmup_share" not in policy.hparams
    schedule = policy.lr_schedulers()
    (factor,) = {partial_factor.keywords["warmup_ratio"] for partial_factor in schedule.lr_lambdas}
    assert factor == 0.25


def test_the_first_solution_is_greedy_and_the_others_are_those_of_a_policy_that_samples_all(sharp_checkpoint, picture):
    sampling = SamplingParameters(temperature=0.6, top_p=0.95, top_k=50, max_new_tokens=16, seed=3)

    def rows_of(**options):
        policy = Policy(str(sharp_checkpoint), sampling=sampling, **options).eval()
        prompts = [
            Prompt(f"MMMU/{number}", "How many?", (), "2", "MMMU", partial(list, [picture(number)]), grade, text="So?")
            for number in range(2)
        ]
        batch = PromptCollator(ChatRenderer(policy.processor))(prompts)
        return [row for _, of_prompt in policy.predict_step(batch, 0) for row in of_prompt]

    grade = grade_by_answer("2")
    mixed, sampled = (rows_of(num_samples=4, first_greedy=first_greedy) for first_greedy in (True, False))
    sampling = replace(sampling, temperature=0.0, top_p=1.0, top_k=None)
    greedy = rows_of(num_samples=1)
    assert [row["response"] for row in mixed[::4]] == [row["response"] for row in greedy]
    assert [row["response"] for row in mixed[::4]] != [row["response"] for row in sampled[::4]]
    assert [row for row in mixed if row["sample_index"]] == [row for row in sampled if row["sample_index"]]
    assert [row["sample_index"] for row in mixed] == [0, 1, 2, 3] * 2
    # Each row says how it was drawn, and what was asked.
    drawn = [(row["temperature"], row["top_p"], row.get("top_k")) for row in mixed]
    assert drawn == [(0.0, 1.0, None), *[(0.6, 0.95, 50)] * 3] * 2
    assert {row["prompt"] for row in mixed} == {"So?"}
    assert [parse_rollout(row, "row").top_k for row in mixed] == [row.get("top_k") for row in mixed]
    # A single solution is the greedy one.
    sampling = replace(sampling, temperature=0.6)
    (first, second) = rows_of(num_samples=1, first_greedy=True)
    assert [first["response"], second["response"]] == [row["response"] for row in greedy]


@pytest.mark.parametrize("first_greedy", [False, True])
def test_samples_that_are_there_are_not_sampled_again(sharp_checkpoint, picture, first_greedy):
    """What a job adds to two and to none of two questions is what a job that samples all has there."""
    sampling = SamplingParameters(temperature=0.8, max_new_tokens=8, seed=3)

    def rows_of(num_samples, done):
        policy = Policy(str(sharp_checkpoint), sampling=sampling, num_samples=num_samples, first_greedy=first_greedy)
        policy.eval().samples_done = done
        prompts = [
            Prompt(f"MMMU/{number}", "How many?", (), "2", "MMMU", partial(list, [picture(number)]), grade)
            for number in range(2)
        ]
        batch = PromptCollator(ChatRenderer(policy.processor))(prompts)
        return [of_prompt for _, of_prompt in policy.predict_step(batch, 0)]

    grade = grade_by_answer("2")
    whole = rows_of(5, {})
    assert rows_of(5, {"MMMU/0": 2}) == [whole[0][2:], whole[1]]
    assert rows_of(5, {"MMMU/0": 5, "MMMU/1": 4}) == [[], whole[1][4:]]
    assert rows_of(2, {}) == [of_prompt[:2] for of_prompt in whole]
    assert len({row["response"] for row in whole[0]}) > 2
