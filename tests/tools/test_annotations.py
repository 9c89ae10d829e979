"""`visualprm-data agree`, `card` and `estimate`."""

import json
import math

import pytest

from datamodules.supervision.rows import read_rows
from tools.data import main


def row(name, scores, source="geometry", steps=None):
    """Scores are (correct, total)."""
    steps = steps or [f"step {number}" for number in range(len(scores))]
    scored = [
        {"step": text, "score": right / total if total else 0.0, "num_mc_correct": right, "num_mc_total": total}
        for text, (right, total) in zip(steps, scores, strict=True)
    ]
    text = "\n\n".join(steps)
    fields = {"question": "How many?", "answer": "1", "response": text, "source": source, "num_mc_sequences": 4}
    return {"id": name, "steps_with_score": scored, **fields}


def write(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


WEAK = [row("a/0", [(1, 4), (0, 4), (0, 0), (3, 4)]), row("b/0", [(0, 4)], "charts"), row("c/0", [(4, 4)], "charts")]
STRONG = [row("b/0", [(0, 8)]), row("a/0", [(8, 8), (2, 8), (1, 8), (1, 8)]), row("d/0", [(1, 8)])]


def test_agreement_of_two_policies(tmp_path, capsys):
    first, second = write(tmp_path / "weak.jsonl", WEAK), write(tmp_path / "strong.jsonl", STRONG)
    output = tmp_path / "judged.jsonl"
    assert main(["agree", str(first), str(second), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "geometry: 3 steps judged, 66.7 % of them alike; 1 not judged" in printed
    assert "charts: 1 steps judged, 100.0 % of them alike; 1 not judged" in printed
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [[step.get("judge") for step in each["steps_with_score"]] for each in rows] == [
        [1.0, 1.0, None, 1.0],
        [0.0],
        [None],
    ]
    for each in rows:
        for step in each["steps_with_score"]:
            step.pop("judge", None)
    assert rows == WEAK

    def scores(consensus):
        table = read_rows([output], cache_dir=tmp_path / "cache", consensus=consensus)
        return [[None if math.isnan(mc) else mc for mc in steps] for steps in table["mc"][:]]

    assert scores("monte_carlo") == [[0.25, 0.0, None, 0.75], [0.0], [1.0]]
    assert scores("judge") == [[1.0, 1.0, None, 1.0], [0.0]]  # the last row has no verdict, and is left out
    assert scores("agreement") == [[0.25, None, None, 0.75], [0.0]]


def test_a_judge_with_probabilities_says_what_is_right(tmp_path):
    judge = row("a/0", [(1, 4)] * 4)
    for step, (score, verdict) in zip(
        judge["steps_with_score"], [(0.9, True), (0.2, False), (0.6, True), (0.0, None)], strict=True
    ):
        step |= {"score": score} | ({"num_mc_total": 0} if verdict is None else {"is_right": verdict})
    first, second = write(tmp_path / "weak.jsonl", WEAK[:1]), write(tmp_path / "judge.jsonl", [judge])
    assert main(["agree", str(first), str(second), "--output", str(tmp_path / "judged.jsonl")]) == 0
    (found,) = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    # The third step has no score of the first annotation, the fourth none of the judge.
    assert [step.get("judge") for step in found["steps_with_score"]] == [1.0, 0.0, None, None]


def test_other_solutions_are_refused(tmp_path, capsys):
    first = write(tmp_path / "a.jsonl", WEAK[:1])
    second = write(tmp_path / "b.jsonl", [row("a/0", [(1, 4)] * 4, steps=["x", "y", "z", "w"])])
    assert main(["agree", str(first), str(second), "--output", str(tmp_path / "c.jsonl")]) == 2
    assert "a.jsonl:1: the row 'a/0' has other steps than that of" in capsys.readouterr().err
    assert not (tmp_path / "c.jsonl").exists()


@pytest.fixture
def measured(tmp_path):
    """2 questions x 2 solutions x 3 steps, of which 2 are continued at most 4 times: 20 of 32 draws."""
    rows = [row(f"{name}/{n}", [(1, 2), (0, 3), (1, 1)]) for name in "ab" for n in range(2)]
    costs = {"requests": 10, "solutions": 4, "continuations": 20, "surplus": 0}
    costs |= {"prompt_tokens": 3000, "completion_tokens": 2400, "seconds": 6.0}
    record = {
        "format": 2,
        "settings": {"num_continuations": 4, "num_solutions": 2},
        "prompts": {"digest": "x", "count": 2},
        "finished": True,
        "left_out": {},
        "costs": costs,
        "when": "2026-11-30T12:00:00+00:00",
    }
    (tmp_path / "rows.jsonl.settings").write_text(json.dumps(record))
    return write(tmp_path / "rows.jsonl", rows)


def test_an_estimate_by_hand(measured, capsys):
    job = ["--prompts", "100000", "--solutions", "4", "--steps", "12", "--continuations", "16"]
    assert main(["estimate", "--from", str(measured), *job]) == 0
    printed = capsys.readouterr().out
    # 0.625 of 4,800,000 x 16 draws; 2.4 texts a request; 300 and 100 tokens; 400 tokens a second.
    assert "solutions: 400,000\n" in printed
    assert "continuations: 48,000,000\n" in printed
    assert "requests: 20,166,667\n" in printed
    assert "prompt tokens: 6,050,000,100\n" in printed
    assert "completion tokens: 4,840,000,000\n" in printed
    assert f"device hours: {4.84e9 / 400 / 3600:,.1f}\n" in printed


def test_an_estimate_of_given_rates(capsys):
    rates = ["--tokens-per-second", "1000", "--completion-tokens", "50", "--prompt-tokens", "500"]
    assert main(["estimate", "--prompts", "10", "--steps", "5", "--drawn", "0.5", *rates]) == 0
    assert "continuations: 1,600\n" in capsys.readouterr().out
    assert main(["estimate", "--prompts", "10", "--steps", "5", *rates[:2]]) == 2
    assert "give --from, or --prompt-tokens, --completion-tokens" in capsys.readouterr().err


def test_a_card_is_printed_or_written(measured, tmp_path, capsys):
    assert main(["card", str(measured)]) == 0
    printed = capsys.readouterr().out
    assert "| geometry | 4 | 2 | 12 | 33.3 |" in printed
    assert "Finished at 2026-11-30" in printed
    assert main(["card", str(measured), "--output", str(tmp_path / "card.md")]) == 0
    assert (tmp_path / "card.md").read_text() == printed
