import json

import fork_server
import pytest
import torch

from tools.benchmarks import scoring
from tools.benchmarks.models import make_model
from tools.benchmarks.operations import VISUALPRM_8B, ModelShape, usual_workload
from tools.benchmarks.scoring_variants import SIZES, make_candidates, variants


def test_the_smallest_run(tmp_path, capsys):
    output = tmp_path / "rows.json"
    words = ["--size", "tiny", "--tiles", "1", "2", "--candidates", "8", "--rounds", "1", "--output", str(output)]
    assert scoring.main([*words, "--no-memory"]) == 0
    rows = json.loads(output.read_text())
    assert [(row["tiles"], row["candidates"]) for row in rows] == [(1, 8), (2, 8)]
    shape = ModelShape.of(SIZES["tiny"].config())
    for row in rows:
        assert set(row["seconds"]) == {"soft", "soft_v2", "ours"}
        assert all(value > 0 for value in row["seconds"].values())
        assert set(row["peak_mib"].values()) == {None}
        assert row["largest_difference"] < 1e-4
        assert row["noise"] < 1e-4
        assert row["score_spread"] > 0.1
        # A token of text stands for 64 of the 8B's, whose tiles have 256.
        work = usual_workload(row["tiles"], 8, text_tokens=2, step_tokens=1)
        assert row["operations"]["soft_v2"] == work.one_forward_a_response(shape)
        assert row["counted_ratio"] == pytest.approx(work.one_forward_a_response(shape) / work.floor(shape))
    assert rows[0]["counted_ratio_8b"] == pytest.approx(
        usual_workload(1, 8).one_forward_a_response(VISUALPRM_8B) / usual_workload(1, 8).floor(VISUALPRM_8B)
    )
    shown = capsys.readouterr().out
    assert "0.054" in shown
    assert len([line for line in shown.splitlines() if line.startswith("| 2 | 8 |")]) == 2


def test_peak_memory(tmp_path, monkeypatch):
    """Of each way in a process of its own, a fork of one that has imported torch; soft is left out."""
    monkeypatch.setattr(scoring.multiprocessing, "get_context", lambda method, make=fork_server.context: make())
    output = tmp_path / "rows.json"
    words = ["--size", "tiny", "--tiles", "4", "--candidates", "32", "--rounds", "1", "--longest-seconds", "0"]
    assert scoring.main([*words, "--output", str(output)]) == 0
    (row,) = json.loads(output.read_text())
    assert row["peak_mib"].keys() == {"soft", "soft_v2", "ours"}
    assert row["peak_mib"]["soft"] is None
    assert 0 < row["peak_mib"]["soft_v2"] < 200
    assert row["peak_mib"]["ours"] is not None


def test_what_would_take_too_long_is_left_out(capsys):
    words = ["--size", "tiny", "--tiles", "1", "--candidates", "2", "--rounds", "1", "--no-memory"]
    assert scoring.main([*words, "--longest-seconds", "0"]) == 0
    shown = capsys.readouterr().out
    assert "soft was left out: it would take more than 0 s a round" in shown
    (row,) = {line for line in shown.splitlines() if line.startswith("| 1 | 2 |")}
    assert row.startswith("| 1 | 2 | - | 0.")


def test_different_scores_are_a_failure(monkeypatch, capsys):
    def off(model, group):
        return [logits + torch.tensor([0.01, 0.0]) for logits in variants(None)["ours"](model, group)]

    monkeypatch.setattr(scoring, "variants", lambda memory_gib: {**variants(memory_gib), "ours": off})
    words = ["--size", "tiny", "--tiles", "1", "--candidates", "2", "--rounds", "1", "--no-memory"]
    assert scoring.main(words) == 1
    assert "1 tiles, 2 candidates: scores differ by" in capsys.readouterr().out


@pytest.mark.parametrize("memory_gib", [None, 1e-4])
def test_sixteen_bits(memory_gib):
    """Ours is as close to the released ways of scoring as they are to each other."""
    model = make_model(SIZES["tiny"], "cpu", torch.bfloat16)
    group = make_candidates(model, usual_workload(1, 4, text_tokens=8, step_tokens=3))
    with torch.inference_mode():
        scores = {name: torch.cat(run(model, group)).softmax(-1)[:, 0] for name, run in variants(memory_gib).items()}
    noise = (scores["soft"] - scores["soft_v2"]).abs().max()
    assert (scores["ours"] - scores["soft_v2"]).abs().max() < 2 * noise + 0.01
