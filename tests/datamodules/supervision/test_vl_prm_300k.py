"""VL-PRM300K: rows as its dataset card describes them."""

import pytest

from datamodules.supervision.row_parsing import parse_row
from datamodules.supervision.vl_prm_300k import as_raw_row, is_vl_prm_row

STEPS = ["There are 3 discs.", "One disc is red.", "2 + 1 = 3.", "The answer is 3."]
SCORES = [1.0, 0.5, 0.25, 0.0]


def row(first_incorrect_step, turns=None, **others):
    """Two steps of what is seen and two of reasoning; a turn holds a step."""
    shown = [f"### Question:\nHow many?\n\n### Solution Process:\n[Visual Elements]\n<step_1>{STEPS[0]}</step_1>"]
    shown += [
        f"<step_2>{STEPS[1]}</step_2>",
        f"[Reasoning]\n<step_1>{STEPS[2]}</step_1>",
        f"<step_2>{STEPS[3]}</step_2>",
    ]
    conversations = [{"role": "system", "content": [{"type": "text", "text": "You are a model."}]}]
    for text in shown[:turns]:
        conversations.append({"role": "user", "content": [{"type": "text", "text": text}]})
        conversations.append({"role": "assistant", "content": [{"type": "text", "text": "+"}]})
    return {
        "id": "698d978c",
        "conversations": conversations,
        "first_incorrect_step": first_incorrect_step,
        "steps_with_score": [
            {"step": step, "score": score, "num_mc_correct": round(16 * score), "num_mc_total": 16}
            for step, score in zip(STEPS, SCORES, strict=True)
        ],
        "rollout_ground_truth_answer": "3",
        "image": "images/RAVEN/1.png",
        "source": "RAVEN",
        "question": "How many?",
    } | others


def verdicts(given):
    return [step["judge"] for step in as_raw_row(given, "f:1")["steps_with_score"]]


@pytest.mark.parametrize(
    ("first_wrong", "expected"),
    [
        ("['Visual Elements', 0]", [0.0, None, None, None]),
        ("['Visual Elements', 1]", [1.0, 0.0, None, None]),
        ("['Reasoning', 0]", [1.0, 1.0, 0.0, None]),
        (["Reasoning", 1], [1.0, 1.0, 1.0, 0.0]),
        (("Reasoning", "1"), [1.0, 1.0, 1.0, 0.0]),
        (None, [1.0] * 4),
        ("None", [1.0] * 4),
    ],
)
def test_the_verdicts_of_the_judge(first_wrong, expected):
    assert verdicts(row(first_wrong)) == expected


def test_turns_in_the_other_spelling():
    given = row("['Reasoning', 0]")
    speakers = {"system": "system", "user": "human", "assistant": "gpt"}
    given["conversations"] = [
        {"from": speakers[turn["role"]], "value": turn["content"][0]["text"]} for turn in given["conversations"]
    ]
    assert verdicts(given) == [1.0, 1.0, 0.0, None]


@pytest.mark.parametrize(
    ("consensus", "expected"),
    [("monte_carlo", [1.0, 0.5, 0.25, 0.0]), ("judge", [1.0, 1.0, 0.0]), ("agreement", [1.0, 0.5])],
)
def test_the_data_module_chooses_whose_verdict_counts(consensus, expected):
    found = parse_row(row("['Reasoning', 0]"), "f:1", "x", lambda name: f"/root/{name}", lambda path: path, consensus)
    assert found["steps"] == STEPS
    assert [score for score in found["mc"] if score == score] == expected
    assert (found["source"], found["question"], found["images"]) == ("RAVEN", "How many?", ["/root/images/RAVEN/1.png"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (row("['Perception', 0]"), "f:1: field 'first_incorrect_step'.*'Visual Elements' or 'Reasoning'"),
        (row("rubbish"), "f:1: field 'first_incorrect_step'"),
        (row("['Reasoning', 7]"), "f:1: field 'first_incorrect_step'.*one of the 4 steps"),
        (row("['Reasoning', 0]", turns=2), r"f:1: field 'conversations': no turn names the section \[Reasoning\]"),
    ],
)
def test_rows_that_contradict_themselves(given, message):
    with pytest.raises(ValueError, match=message):
        as_raw_row(given, "f:1")


def test_other_rows_are_not_taken_for_it():
    assert is_vl_prm_row(row(None))
    assert not is_vl_prm_row({"steps_with_score": [], "question": "x"})
