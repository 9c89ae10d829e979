"""As verl calls custom reward functions: by the path of the file, with `reward_kwargs`, one solution or a batch."""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from literal_server import literal_server

from lightning_modules.process_reward import ProcessRewardModel
from lightning_modules.reinforcement_learning import verl

QUESTION = "How many digits are larger than 4 ?"
SOLUTIONS = ["The digits are 3 , 7\n\nSo 9\n\nSo 3", "So 9\n\nSo the answer is \\boxed{2} ."]


@pytest.fixture
def module(monkeypatch):
    """Loaded as verl does, under another name and not as a part of its package."""
    spec = importlib.util.spec_from_file_location("custom_module", verl.__file__)
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "custom_module", loaded)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def expected(sharp_checkpoint, picture):
    model = ProcessRewardModel.from_pretrained(sharp_checkpoint, aggregation="min")
    return model.score(picture(1), QUESTION, SOLUTIONS).response_scores


def row(picture, **more):
    return {"split": "train", "index": 17, "question": QUESTION, "images": [picture(1)], "num_turns": None, **more}


def test_one_solution(module, sharp_checkpoint, picture, expected):
    score = partial(module.compute_score, model_name_or_path=str(sharp_checkpoint), aggregation="min", device="cpu")
    for solution, reward in zip(SOLUTIONS, expected, strict=True):
        found = score(data_source="MMMU", solution_str=solution, ground_truth="2", extra_info=row(picture))
        assert found == pytest.approx(reward, abs=1e-6)
        assert type(found) is float
    # Other keys, pictures as rows of parquet files have them, and what newer versions add.
    picture(1).save("a.png")
    extra = {"prompt": QUESTION, "figure": np.array([{"bytes": open("a.png", "rb").read()}], dtype=object)}
    keys = {"question_key": "prompt", "images_key": "figure", "reward_router_address": "http://..."}
    assert score("MMMU", SOLUTIONS[0], "2", extra, **keys) == pytest.approx(expected[0], abs=1e-6)
    assert len(module._rewards) == 1  # the model is loaded once


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_batch(module, sharp_checkpoint, picture, expected):
    found = module.compute_scores(
        data_sources=np.array(["MMMU"] * 2),
        solution_strs=SOLUTIONS,
        ground_truths=["2", "2"],
        extra_infos=np.array([row(picture), row(picture)], dtype=object),
        model_name_or_path=str(sharp_checkpoint),
        aggregation="min",
        device="cpu",
    )
    assert found == pytest.approx(expected, abs=1e-6)


def test_servers_and_threads(module, sharp_checkpoint, picture, expected):
    """Reward managers call it from several threads at once."""
    with literal_server(sharp_checkpoint) as server:
        settings = {"base_urls": [server.url], "server": {"concurrency": 4}, "aggregation": "min"}
        score = partial(module.compute_score, model_name_or_path=str(sharp_checkpoint), **settings)
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(score, "MMMU", solution, "2", row(picture)) for solution in SOLUTIONS * 3]
            found = [call.result() for call in calls]
    assert found == pytest.approx(expected * 3, abs=1e-5)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (None, r"MMMU, row 0 of the batch: extra_info\['question'\] must hold the question.*has nothing"),
        ({"index": 17, "prompt": "?"}, r"MMMU, index 17: extra_info\['question'\].*index, prompt.*question_key"),
        ({"index": 17, "question": "What is in <image> ?"}, "MMMU, index 17: .*<image>, but no picture"),
        ({"index": 17, "question": "?", "images": ["a.png"]}, r"MMMU, index 17, extra_info\['images'\].*a\.png"),
    ],
)
def test_mistakes_in_rows(module, sharp_checkpoint, info, message):
    with pytest.raises(ValueError, match=message):
        module.compute_score("MMMU", "So 2", "2", info, model_name_or_path=str(sharp_checkpoint), device="cpu")


def test_mistakes_in_reward_kwargs(module, sharp_checkpoint):
    with pytest.raises(ValueError, match="reward_kwargs: model_name_or_path is missing"):
        module.compute_score("MMMU", "So 2", "2", {"question": "?"})
    with pytest.raises(TypeError, match="reward_kwargs: unknown agregation"):
        module.compute_score("MMMU", "So 2", "2", {"question": "?"}, agregation="min", model_name_or_path="x")
