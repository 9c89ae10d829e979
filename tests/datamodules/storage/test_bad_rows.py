"""How many rows may be left out, and how a refusal counts them."""

import pytest

from datamodules.storage.bad_rows import BadRows, causes, require_few_bad_rows, require_share

MISSING = (
    "rows.jsonl:{}: field 'image': /data/{}.png cannot be opened as an image: [Errno 2] No such file: '/data/{}.png'"
)


def missing(count):
    return [MISSING.format(number, number, number) for number in range(count)]


@pytest.mark.parametrize(
    ("bad", "rows", "share", "is_refused"),
    [
        (1400, 1600, 0.1, True),
        (41_000, 400_000, 0.1, True),
        (40_000, 400_000, 0.1, False),
        (41_000, 400_000, 0.2, False),
        (10, 20, 0.1, False),  # a small set, for trying things out
        (11, 20, 0.1, True),
        (8, 9, 0.0, False),
        (11, 20, 0.6, False),
        (20, 21, 0.1, True),
        (20, 20, 1.0, False),
        (20, 400_000, 0.0, True),
        (0, 0, 0.0, False),
    ],
)
def test_how_many_may_be_left_out(bad, rows, share, is_refused):
    problems = ["a.jsonl:1: broken"] * bad
    if is_refused:
        with pytest.raises(
            ValueError, match=rf"^a: {bad} of {rows} rows cannot be used, more than max_bad_rows={share:g}"
        ):
            require_few_bad_rows(problems, rows, "a", share)
    else:
        require_few_bad_rows(problems, rows, "a", share)


def test_rows_are_counted_by_cause():
    others = ["rows.jsonl:7: field 'question' is missing; the row has ['a']"] * 2
    tables = ["t.tsv:3 (index 5): column 'answer' is 'E', but the options are A, B"]
    scores = [f"r.jsonl:{n}: field 'steps_with_score[{n}].score' must be a number, got {n}" for n in range(3)]
    blank = ["x.jsonl:1: not valid JSON"]
    assert causes([*others, *missing(1380), *tables, *scores, *blank]) == (
        "1380 field 'image': ... cannot be opened as an image: No such file; "
        "3 field 'steps_with_score[...].score' must be a number; 2 field 'question' is missing; 2 others"
    )


def test_a_refusal_is_a_few_lines():
    bad = BadRows(max_bad_rows=0.5)
    for problem in missing(80):
        bad.add(ValueError(problem))
    bad.report("rows.jsonl", 160)
    with pytest.raises(ValueError, match="80 of 159 rows") as found:
        bad.report("rows.jsonl", 159)
    assert str(found.value).splitlines()[1:] == [
        "by cause: 80 field 'image': ... cannot be opened as an image: No such file",
        f"the first: {MISSING.format(0, 0, 0)}",
    ]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_what_is_no_share(share):
    with pytest.raises(ValueError, match=r"max_bad_rows must be in \[0, 1\]"):
        require_share(max_bad_rows=share)
