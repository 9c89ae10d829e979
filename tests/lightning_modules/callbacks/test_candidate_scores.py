import json

import pytest

from lightning_modules.callbacks.candidate_scores import (
    CandidateScore,
    OutcomeScores,
    read_candidate_scores,
    response_digest,
    write_candidate_scores,
)

ROW = {"benchmark": "MMMU", "question_id": "3", "sample_index": 0, "step_scores": [0.5], "response_score": 0.5}


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_round_trip(tmp_path):
    path = tmp_path / "scores" / "candidate_scores.jsonl"
    digests = [response_digest(text) for text in ("first", "Zweiter\n\nSchritt é")]
    write_candidate_scores(
        path,
        [
            CandidateScore("MMMU", "3", index, [0.25, 0.5], 0.375 + index, digest)
            for index, digest in enumerate(digests)
        ],
    )
    assert OutcomeScores(path).of("MMMU", "3", digests) == [0.375, 1.375]
    assert json.loads(path.read_text().splitlines()[1])["step_scores"] == [0.25, 0.5]


def test_digest_is_optional_and_an_integer_score_is_fine(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", ROW | {"response_score": 1})
    assert OutcomeScores(path).of("MMMU", "3", ["anything"]) == [1.0]


def test_scores_of_another_response_are_refused(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", ROW | {"response_digest": response_digest("old")})
    with pytest.raises(ValueError, match=r"MMMU question '3', sample_index 0: the score is that of another response"):
        OutcomeScores(path).of("MMMU", "3", [response_digest("new")])


def test_missing_candidate_is_named(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", ROW)
    with pytest.raises(ValueError, match=r"s.jsonl: MMMU question '3', sample_index 1: no score"):
        OutcomeScores(path).of("MMMU", "3", ["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response_score": None}, r"s.jsonl:2: field 'response_score' must be a finite number, got None"),
        ({"response_score": True}, r"s.jsonl:2: field 'response_score' must be a finite number, got True"),
        ({"response_score": float("nan")}, r"s.jsonl:2: field 'response_score' must be a finite number, got nan"),
        ({"question_id": 4}, r"s.jsonl:2: field 'question_id' must be a string, got 4"),
        ({"sample_index": "0"}, r"s.jsonl:2: field 'sample_index' must be an integer, got '0'"),
        ({"response_digest": None}, r"s.jsonl:2: field 'response_digest' must be a string, got None"),
        ({}, r"s.jsonl:2: MMMU question '3': sample_index 0 occurs a second time"),
    ],
)
def test_bad_lines_are_named(tmp_path, change, message):
    path = write_lines(tmp_path / "s.jsonl", ROW, ROW | change)
    with pytest.raises(ValueError, match=message):
        OutcomeScores(path)


def test_an_empty_file_is_no_result(tmp_path):
    (tmp_path / "s.jsonl").touch()
    with pytest.raises(ValueError, match=r"s\.jsonl holds no scores; run the test that writes it again"):
        read_candidate_scores(tmp_path / "s.jsonl")


def test_missing_file_tells_where_it_comes_from(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.jsonl: no such file; `visualprm test`"):
        OutcomeScores(tmp_path / "nowhere.jsonl")
