import subprocess
import sys
from types import SimpleNamespace

import fork_server
import pytest

from tools.benchmarks import indexing
from tools.benchmarks.indexing import STEPS, WORDS_PER_STEP, generate, report, run
from tools.data_check import check_data


def test_generated_rows_have_the_statistics_of_the_paper(tmp_path):
    generate(tmp_path, 1000)
    found = check_data([tmp_path], show_progress=False)
    total = found.total
    assert found.bad_rows == []
    assert (total.rows, total.images, len(found.sources)) == (1000, 250, 38)
    assert total.steps / total.rows == pytest.approx(STEPS, abs=0.2)
    assert total.words / total.steps == pytest.approx(WORDS_PER_STEP, abs=0.3)


def be_the_tool(words):
    sys.argv = ["indexing", *words]
    indexing.BATCHES = 5
    indexing.main()


@pytest.fixture
def forked(tmp_path, monkeypatch):
    """Commands that measure are run in forks: what imports take is of no interest to a test."""
    commands = []

    def run_in_a_fork(command, check, stdout):
        assert (command[:3], check, stdout) == ([sys.executable, "-m", indexing.__name__], True, subprocess.PIPE)
        output = tmp_path / f"output-{len(commands)}.txt"
        commands.append(command)
        process = fork_server.start(f"{__file__}:be_the_tool", [command[3:]], output)
        process.join(300)
        fork_server.kill(process)
        assert process.exitcode == 0, output.read_text()
        return SimpleNamespace(stdout=output.read_bytes())

    monkeypatch.setattr(indexing, "subprocess", SimpleNamespace(run=run_in_a_fork, PIPE=subprocess.PIPE))
    return commands


def test_all_measurements_are_taken(tmp_path, capsys, forked, monkeypatch):
    monkeypatch.setattr(indexing, "NUM_SOURCES", 4)  # each file takes a tenth of a second to open
    results = run(tmp_path / "work", 80, 2)
    assert [results[name]["rows"] for name in ("first", "second", "second_with_workers")] == [80] * 3
    assert results["second_with_workers"]["workers"] == 2
    assert 0 < results["second_with_workers"]["worker_pss"] < results["second_with_workers"]["total_pss"]
    assert results["first"]["rss_anonymous"] < results["first"]["rss"] <= results["first"]["peak_rss"] * 1.01
    assert len(report(results).columns) == 4
    assert len(forked) == 3
