import logging

import pytest

from datamodules.process_bench.totals import (
    RELEASED,
    RELEASED_OVERALL,
    SourceTotals,
    check_totals,
    count_steps,
    coverage_sentence,
    differences_from_release,
    pooled,
)

# The numbers, and table 1 of the paper.
STEPS = {
    "MathVerse": (5767, 2960),
    "MathVision": (3875, 2350),
    "DynaMath": (3469, 1091),
    "WeMath": (1776, 582),
    "MMMU": (1698, 708),
}
SAMPLES = {"MMMU": 267, "MathVision": 712, "MathVerse": 1026, "DynaMath": 570, "WeMath": 291}


def full(**changes):
    totals = {name: SourceTotals(SAMPLES[name], *STEPS[name], 500) for name in SAMPLES}
    totals["MMMU"] = SourceTotals(267, 1698, 708, 674)
    return totals | changes


def test_the_released_numbers_add_up():
    assert sum(SAMPLES.values()) == 2866
    assert sum(correct for correct, _ in STEPS.values()) == 16585
    assert sum(incorrect for _, incorrect in STEPS.values()) == 7691
    assert 16585 + 7691 + 2674 == 26950
    assert {name: (found.correct, found.incorrect) for name, found in RELEASED.items()} == STEPS
    assert SourceTotals(2866, 16585, 7691, 2674) == RELEASED_OVERALL == pooled(full())


def test_counting():
    rows = [("MMMU", [1, 1, 0]), ("WeMath", [-1]), ("MMMU", [-1, 0, 0])]
    assert count_steps(rows) == {"MMMU": SourceTotals(2, 2, 1, 3), "WeMath": SourceTotals(1, 0, 1, 0)}


def test_the_full_set_passes(caplog):
    for check in ("auto", "error", "warn"):
        check_totals(full(), "test.jsonl", check)
    assert not caplog.records
    assert coverage_sentence(full()) == "These are all 2866 samples of the released VisualProcessBench."


def test_every_mismatch_is_named():
    changed = full(
        MathVerse=SourceTotals(1026, 5766, 2961, 499),
        Math=SourceTotals(1, 2, 0, 3),
        WeMath=SourceTotals(290, 1776, 582),
    )
    assert differences_from_release(changed) == [
        "MathVerse has 5766 correct steps instead of 5767",
        "MathVerse has 2961 incorrect steps instead of 2960",
        "WeMath has 290 samples instead of 291",
        "Math has 1 samples instead of 0",
        "Math has 2 correct steps instead of 0",
        "Math has 3 neutral steps instead of 0",
        "the whole has 16586 correct steps instead of 16585",
        "the whole has 7692 incorrect steps instead of 7691",
        "the whole has 2176 neutral steps instead of 2674",
    ]
    with pytest.raises(
        ValueError, match="MathVerse has 5766 correct steps instead of 5767; MathVerse has 2961"
    ) as error:
        check_totals(changed, "test.jsonl", "auto")
    assert str(error.value).startswith("test.jsonl: this is not the released VisualProcessBench")


def test_a_missing_source_is_named():
    totals = full()
    del totals["DynaMath"]
    assert "DynaMath has 0 correct steps instead of 3469" in differences_from_release(totals)


def test_other_sizes(caplog):
    small = {"MMMU": SourceTotals(2, 3, 1, 1)}
    check_totals(small, "test.jsonl", "auto")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        "test.jsonl: 2 samples with 5 steps (3 correct, 1 incorrect, 1 neutral) are not the released "
        "VisualProcessBench of 2866 samples"
    )
    with pytest.raises(ValueError, match="MMMU has 2 samples instead of 267"):
        check_totals(small, "test.jsonl", "error")
    caplog.clear()
    check_totals(full(WeMath=SourceTotals(291, 1775, 583, 500)), "test.jsonl", "warn")
    assert "WeMath has 1775 correct steps instead of 1776; WeMath has 583 incorrect" in caplog.text
    with pytest.raises(ValueError, match="got 'maybe'"):
        check_totals(small, "test.jsonl", "maybe")
