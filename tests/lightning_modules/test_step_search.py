"""The real engine and the real scorer on tiny random models: a search is reproducible, and Best-of-N can read it."""

import json

import pytest
import torch

from datamodules.best_of_n import read_best_of_n_datasets
from datamodules.policy.benchmark_prompts import benchmark_prompts
from datamodules.policy.chat import ChatRenderer
from datamodules.policy.prompt_batches import PromptCollator
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.process_reward import ProcessRewardModel
from lightning_modules.search.options import SearchOptions
from lightning_modules.step_search import SearchRewardModel, StepSearch

SAMPLING = SamplingParameters(temperature=1.5, max_new_tokens=8, seed=3)


@pytest.fixture(scope="module")
def prompts(tiny_world):
    return benchmark_prompts(tiny_world / "benchmarks", ["MMMU"])[:3]


def search_of(checkpoint, **options):
    reward = SearchRewardModel(str(checkpoint), **options.pop("reward", {}))
    module = StepSearch(str(checkpoint), reward, SearchOptions(**options), num_candidates=3, sampling=SAMPLING)
    return module.eval()


@pytest.fixture
def batch(prompts, tiny_processor):
    collator = PromptCollator(ChatRenderer(tiny_processor))
    return lambda *numbers: collator([prompts[number] for number in numbers])


@pytest.mark.parametrize("options", [{"width": 2, "expansion": 2}, {"method": "best_first", "expansion": 3}])
def test_a_search_is_reproducible_and_can_be_read(sharp_checkpoint, batch, prompts, tiny_world, tmp_path, options):
    module = search_of(sharp_checkpoint, **options)
    together = dict(module.predict_step(batch(0, 1, 2), 0))
    costs = module.prediction_costs
    alone = dict(module.predict_step(batch(1), 0))
    name = prompts[1].prompt_id
    assert [row["response"] for row in together[name]] == [row["response"] for row in alone[name]]
    tree = together[name][0]["search"]["tree"]
    assert [node["step"] for node in tree["nodes"]] == [n["step"] for n in alone[name][0]["search"]["tree"]["nodes"]]
    # All that was sampled is counted, once.
    assert tree["sampled_tokens"] == costs[name]["completion_tokens"] == together[name][2]["search"]["sampled_tokens"]
    assert "tree" not in together[name][1]["search"]
    # The best solution comes first, with the scores of any other way to score it.
    best = [row["search"]["response_score"] for row in together[name]]
    assert best[0] == max(best)
    reward = ProcessRewardModel.from_pretrained(sharp_checkpoint)
    scored = reward.score(prompts[1].load_images(), prompts[1].question, [row["response"] for row in together[name]])
    for row, steps in zip(together[name], scored.step_scores, strict=True):
        assert row["search"]["step_scores"] == pytest.approx(steps, abs=1e-4)
    # Best-of-N reads the rows as rollouts.
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for rows in together.values() for row in rows))
    folder = tiny_world / "benchmarks"
    (dataset,) = read_best_of_n_datasets(folder, path, ["MMMU"], 3, on_missing="skip").values()
    assert [len(group) for group in dataset.rollouts] == [3, 3, 3]


def test_looking_ahead_is_counted(sharp_checkpoint, batch, prompts):
    module = search_of(sharp_checkpoint, width=1, expansion=2, lookahead=1)
    rows = dict(module.predict_step(batch(0), 0))[prompts[0].prompt_id]
    tree = rows[0]["search"]["tree"]
    assert 0 <= tree["lookahead_tokens"] <= tree["sampled_tokens"]


def test_the_reward_model_needs_no_other_rank(sharp_checkpoint, batch, monkeypatch):
    """On several ranks one may search longer than the others, so that nothing may be asked of them."""

    def never(*arguments, **options):
        raise AssertionError("a rank waits for the others")

    module = search_of(sharp_checkpoint, width=1, expansion=2)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", never)
    module.predict_step(batch(0), 0)


def test_what_decides_is_in_the_settings(sharp_checkpoint):
    settings = search_of(sharp_checkpoint, width=2, reward={"aggregation": "min"}).prediction_settings
    assert settings["search"]["width"] == 2
    assert settings["aggregation"] == "min"
    assert settings["sampling"]["seed"] == 3


def test_the_policy_has_no_weights_of_the_reward_model(sharp_checkpoint):
    module = search_of(sharp_checkpoint)
    assert not any("reward_model" in name for name in module.state_dict())
    assert not any(parameter.requires_grad for parameter in module.reward_model.parameters())


def test_what_cannot_lead_a_search(sharp_checkpoint, tmp_path):
    model = ProcessRewardModel(str(sharp_checkpoint), objective="outcome")
    model.save_pretrained(tmp_path / "orm")
    with pytest.raises(ValueError, match="judges whole responses"):
        search_of(tmp_path / "orm")
    with pytest.raises(ValueError, match="num_candidates"):
        StepSearch(str(sharp_checkpoint), SearchRewardModel(str(sharp_checkpoint)), num_candidates=0)
