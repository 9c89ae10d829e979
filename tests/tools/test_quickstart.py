import os
import sys
from pathlib import Path

import pytest
from cli_runs import parsed

from tools.quickstart import run_recipe
from tools.quickstart_stages import Stage, run_command, run_stages, stages

REPOSITORY = Path(__file__).parents[2]
WRITTEN = ("folder", "output", "output_dir")
"""Arguments of callbacks that say where results go."""


def test_stages(tmp_path):
    todo = stages(tmp_path, seed=3)
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
    expected = set((REPOSITORY / "experiments" / "quickstart").glob("*.yaml"))
    assert named == {path.relative_to(REPOSITORY) for path in expected}


def test_commands_write_the_results_of_their_stages(tmp_path):
    """And read those of the stages before, under the names that the recipe knows them by."""
    before = set()
    for stage in stages(tmp_path, seed=3):
        if stage.command[1] == "lightning_modules.cli":
            config = parsed(tmp_path, *stage.command[2:])
            callbacks = [callback.get("init_args", {}) for callback in config["trainer"]["callbacks"]]
            written = {Path(options[key]) for options in callbacks for key in WRITTEN if options.get(key)}
            assert len(written) == 1, stage.title
            assert written <= {stage.result, stage.result.parent}, stage.title
            assert Path(config["model"]["init_args"]["model_name_or_path"]) in before, stage.title
        before.add(stage.result)


def test_what_is_done_is_not_done_again(tmp_path, capsys):
    for stage in stages(tmp_path, seed=0):
        stage.result.parent.mkdir(parents=True, exist_ok=True)
        stage.result.touch()
    run_stages(tmp_path, seed=0)
    assert capsys.readouterr().out.count("done before") == len(stages(tmp_path, seed=0))


def test_a_failing_stage_ends_the_run(tmp_path, monkeypatch):
    """The first one draws from generators of random numbers, which have no negative seeds."""
    monkeypatch.chdir(REPOSITORY)
    assert run_recipe(tmp_path, seed=-1, threads=1) == 2
    assert not (tmp_path / "world" / "truth.jsonl").exists()
    assert not (tmp_path / "random").exists()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a program that can be run with ``python -m``."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return make


def test_a_command_runs_as_the_main_program(program, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tests"])
    text = "import sys; from pathlib import Path\nif __name__ == '__main__': Path(sys.argv[1]).write_text(sys.argv[2])"
    for written in ("one", "two"):
        run_command(["-m", program("writes", text), str(tmp_path / "result"), written])
        assert (tmp_path / "result").read_text() == written
    run_command(["-m", program("ends_well", "raise SystemExit(0)")])
    monkeypatch.setenv("OF_BOTH", "before")
    names = tmp_path / "variables"
    reads = f"import os; open({str(names)!r}, 'w').write(' '.join(os.environ[name] for name in ('OF_ONE', 'OF_BOTH')))"
    run_command(["-m", program("reads", reads)], {"OF_ONE": "1", "OF_BOTH": "2"})
    assert names.read_text() == "1 2"
    assert ("OF_ONE" in os.environ, os.environ["OF_BOTH"]) == (False, "before")
    with pytest.raises(SystemExit, match="no such thing"):
        run_command(["-m", program("ends_ill", "raise SystemExit('no such thing')")])
    assert sys.argv == ["tests"]


def test_a_stage_that_leaves_no_result_is_named(program, tmp_path, monkeypatch):
    lost = Stage("dream", tmp_path / "dream", ["-m", program("does_nothing", "")])
    monkeypatch.setattr("tools.quickstart_stages.stages", lambda *_: [lost])
    with pytest.raises(RuntimeError, match=f"'dream' has ended without {tmp_path}/dream"):
        run_stages(tmp_path, seed=0)
