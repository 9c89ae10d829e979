from pathlib import Path

import pytest
from cli_runs import parsed

from tools.beyond_stages import SHARES, TRAININGS, beyond_stages
from tools.quickstart_stages import stages
from tools.table_stages import table_stages


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def test_results_differ_from_all_others(run):
    results = [stage.result for stage in (*beyond_stages(run), *stages(run, seed=0), *table_stages(run))]
    assert len(set(results)) == len(results)


def configured(run, name):
    (stage,) = (stage for stage in beyond_stages(run) if stage.result == run / name)
    return parsed(run, *stage.command[2:])


def test_calibration_leaves_the_model_as_it_is(run):
    config = configured(run, "calibration/calibration_validate.json")
    (callback,) = config["trainer"]["callbacks"]
    assert callback["init_args"]["update_model"] is False
    assert Path(callback["init_args"]["output_dir"]) == run / "calibration"
    assert Path(config["model"]["init_args"]["model_name_or_path"]) == run / "process_reward_model"


def test_shares_are_chosen_in_two_ways(run):
    found = []
    for share in SHARES:
        for by in ("balanced_information", "random"):
            selection = configured(run, f"selection_{by}_{share:g}")["data"]["init_args"]["selection"]
            found.append((selection["share"], selection["by"]))
    assert found == [(0.1, "balanced_information"), (0.1, "random"), (0.25, "balanced_information"), (0.25, "random")]


@pytest.mark.parametrize("name", TRAININGS)
def test_each_training_is_tested_on_the_candidates_of_the_run(run, name):
    training, evaluation = configured(run, name), configured(run, f"{name}_test/best_of_n_test.json")
    saved = [each for each in training["trainer"]["callbacks"] if each["class_path"].endswith("SavePretrained")]
    assert [Path(each["init_args"]["folder"]) for each in saved] == [run / name]
    assert Path(training["model"]["init_args"]["model_name_or_path"]) == run / "base"
    assert Path(evaluation["model"]["init_args"]["model_name_or_path"]) == run / name
    assert Path(evaluation["data"]["init_args"]["rollouts"]) == run / "rollouts.jsonl"
