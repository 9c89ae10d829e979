import pytest

from datamodules.contamination.question_words import QuestionIndex, ngrams


def test_runs_of_words_and_signs():
    assert ngrams("<image> What is 3+4?", 3) == {
        ("what", "is", "3"),
        ("is", "3", "+"),
        ("3", "+", "4"),
        ("+", "4", "?"),
    }
    assert ngrams("What  IS\n3 + 4 ?", 3) == ngrams("what is 3+4?", 3)
    assert ngrams("Too short", 8) == {("too", "short")}
    assert ngrams("<image>", 8) == frozenset()


def test_the_best_match_by_hand():
    index = QuestionIndex(
        {
            "a": "A train leaves the station at noon and runs east",  # 10 words, 3 runs of 8
            "b": "A train leaves the station at noon and runs west",
            "c": "Which?",
        },
        n=8,
    )
    assert index.best_match("A train leaves the station at noon and runs east") == ("a", 1.0)
    assert index.best_match("A train leaves the station at noon and runs west") == ("b", 1.0)
    north = index.best_match("A train leaves the station at noon and runs north")
    assert (north.key, north.overlap) == ("a", pytest.approx(2 / 3))
    # The whole benchmark question within a longer text.
    longer = "Read with care. A train leaves the station at noon and runs west. How far is it after an hour or two?"
    assert index.best_match(longer) == ("b", 1.0)
    assert index.best_match("which?") == ("c", 1.0)
    assert index.best_match("A train leaves the harbour at dawn and runs east") is None
    assert index.best_match("<image>") is None
