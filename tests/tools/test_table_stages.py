from pathlib import Path

import pytest
from cli_runs import REPOSITORY, parsed

from tools.quickstart_stages import stages
from tools.table_stages import CANDIDATES, table_stages


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """The stages, each with what its command is configured to do."""
    run = tmp_path_factory.mktemp("run")
    return run, [(stage, parsed(run, *stage.command[2:])) for stage in table_stages(run)]


def test_configs_exist_and_results_differ(configured):
    run, todo = configured
    results = [stage.result for stage, _ in todo] + [stage.result for stage in stages(run, seed=0)]
    assert len(set(results)) == len(results)
    for stage, _ in todo:
        configs = [
            after for before, after in zip(stage.command, stage.command[1:], strict=False) if before == "--config"
        ]
        assert configs
        assert all((REPOSITORY / config).is_file() and ".." not in config for config in configs)


def test_each_critic_is_trained_then_tested_on_the_same_candidates(configured):
    run, todo = configured
    settings = {}
    for (fit, training), (test, evaluation) in zip(todo[:-6:2], todo[1:-6:2], strict=True):
        model = training["model"]["init_args"]
        stops_early = bool((model["loss"] or {}).get("early_stop"))
        settings[fit.result.name] = model["objective"], stops_early, model["threshold"] or 0.0
        assert Path(model["model_name_or_path"]) == run / "base"
        assert Path(evaluation["model"]["init_args"]["model_name_or_path"]) == fit.result
        assert Path(evaluation["data"]["init_args"]["rollouts"]) == run / "rollouts.jsonl"
        assert test.result.parent == run / f"{fit.result.name}_test"
        written = {Path(each["init_args"]["output_dir"]) for each in evaluation["trainer"]["callbacks"]}
        assert written == {test.result.parent}
    assert settings == {
        "ablation_advantage": ("advantage", False, 0.0),
        "ablation_early_stop": ("value", True, 0.0),
        "threshold_0.125": ("value", False, 0.125),
        "threshold_0.25": ("value", False, 0.25),
    }


def test_each_temperature_is_sampled_then_tested_with_the_reward_model_of_the_run(configured):
    run, todo = configured
    temperatures = []
    for (sample, sampling), (test, evaluation) in zip(todo[-6::2], todo[-5::2], strict=True):
        policy = sampling["model"]["init_args"]
        assert (policy["num_samples"], Path(policy["model_name_or_path"])) == (CANDIDATES, run / "policy")
        (writer,) = sampling["trainer"]["callbacks"]
        assert Path(writer["init_args"]["output"]) == sample.result
        data = evaluation["data"]["init_args"]
        assert (Path(data["rollouts"]), data["candidates_per_question"]) == (sample.result, CANDIDATES)
        assert Path(evaluation["model"]["init_args"]["model_name_or_path"]) == run / "process_reward_model"
        assert {Path(each["init_args"]["output_dir"]) for each in evaluation["trainer"]["callbacks"]} == {
            test.result.parent
        }
        temperatures.append(policy["sampling"]["temperature"])
    assert temperatures == [0.3, 1.0, 1.3]
