"""What a tool reads is never what it writes over."""

import json

import pytest

from tools import adaptive_best_of_n, data


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text("precious\n")
    (tmp_path / "rollouts.jsonl").write_text("precious\n")
    return path


@pytest.mark.parametrize("name", ["scores.jsonl", "rollouts.jsonl"])
def test_adaptive_best_of_n(name, scores, monkeypatch, capsys):
    output = scores.with_name(name)
    words = [
        "tool",
        str(scores),
        f"--rollouts={scores.with_name('rollouts.jsonl')}",
        f"--output={output}",
        "--overwrite",
    ]
    monkeypatch.setattr("sys.argv", words)
    assert adaptive_best_of_n.main() == 2
    assert f"{output} is read, and would be replaced" in capsys.readouterr().err
    assert output.read_text() == "precious\n"


def test_adaptive_best_of_n_keeps_other_files(scores, monkeypatch, capsys):
    output = scores.with_name("notes.md")
    output.write_text("mine\n")
    monkeypatch.setattr("sys.argv", ["tool", str(scores), f"--rollouts={scores}", f"--output={output}"])
    assert adaptive_best_of_n.main() == 2
    assert "is there already; give another file or --overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine\n"


@pytest.mark.parametrize("command", [["check"], ["decontaminate", "--benchmarks", "none"]])
def test_reports_of_data(command, tmp_path, capsys):
    """Also where the file that is read is in a folder that is given."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "How many?"}) + "\n")
    before = rows.read_bytes()
    assert data.main([command[0], str(tmp_path), *command[1:], "--json", str(rows)]) == 2
    assert f"{rows} is read, and would be replaced" in capsys.readouterr().err
    assert rows.read_bytes() == before
    (tmp_path / "run.yaml").write_text("a: 1\n")
    assert data.main([command[0], str(tmp_path), *command[1:], "--json", str(tmp_path / "run.yaml")]) == 2
    assert "is no .json file of a report" in capsys.readouterr().err
