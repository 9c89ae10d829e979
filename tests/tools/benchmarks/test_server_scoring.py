import json

import pytest
from literal_server import literal_server

from tools.benchmarks import server_scoring


@pytest.fixture
def arguments(quickstart_run, tmp_path):
    return [
        *("--model", str(quickstart_run / "process_reward_model")),
        *("--benchmarks", str(quickstart_run / "world" / "benchmarks")),
        *("--rollouts", str(quickstart_run / "rollouts.jsonl")),
        *("--candidates", "2", "--questions", "2", "--json", str(tmp_path / "ways.json")),
    ]


def test_both_ways(quickstart_run, arguments, tmp_path, capsys):
    with literal_server(quickstart_run / "process_reward_model") as server:
        assert server_scoring.main([*arguments, "--base_urls", server.url, "--rounds", "2"]) == 0
    here, there = json.loads((tmp_path / "ways.json").read_text())
    assert (here["name"], there["name"]) == ("in process", "servers")
    assert here["requests"] == 0 < there["requests"]
    assert min(here["steps_per_second"], there["steps_per_second"]) > 0
    assert there["largest_difference"] < 1e-5
    assert "2 rounds of 2 questions x 2" in capsys.readouterr().out


def test_more_than_there_are(quickstart_run, arguments, capsys):
    assert server_scoring.main([*arguments, "--base_urls", "http://localhost:1/v1", "--rounds", "5000"]) == 2
    assert "5000 rounds and one to warm up need 10002 questions" in capsys.readouterr().err
