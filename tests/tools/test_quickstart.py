import subprocess
from pathlib import Path

import pytest

from tools.quickstart import run_stages, stages

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("reproduce", [False, True])
def test_stages(tmp_path, reproduce):
    todo = stages(tmp_path, seed=3, reproduce=reproduce)
    results = [stage.result for stage in todo]
    assert len(set(results)) == len(results)
    assert all(tmp_path in result.parents for result in results)
    for stage in todo:
        configs = [
            after for before, after in zip(stage.command, stage.command[1:], strict=False) if before == "--config"
        ]
        assert all((REPOSITORY / config).is_file() for config in configs)
        assert bool(configs) == (stage.command[1] == "lightning_modules.cli")
    # Every experiment of the recipe is part of it.
    named = {Path(word) for stage in todo for word in stage.command if word.endswith(".yaml")}
    folders = ["quickstart", "reproduce"] if reproduce else ["quickstart"]
    expected = {path for folder in folders for path in (REPOSITORY / "experiments" / folder).glob("*.yaml")}
    assert named == {path.relative_to(REPOSITORY) for path in expected}


def test_what_is_done_is_not_done_again(tmp_path, capsys):
    for stage in stages(tmp_path, seed=0):
        stage.result.parent.mkdir(parents=True, exist_ok=True)
        stage.result.touch()
    run_stages(tmp_path, seed=0, threads=1)
    assert capsys.readouterr().out.count("done before") == len(stages(tmp_path, seed=0))


def test_a_failing_stage_ends_the_run(tmp_path, monkeypatch):
    """The world is there, but holds no texts for the tokenizer of the second stage."""
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "truth.jsonl").touch()
    with pytest.raises(subprocess.CalledProcessError):
        run_stages(tmp_path, seed=0, threads=1)
    assert not (tmp_path / "base").exists()
    assert not (tmp_path / "policy").exists()
