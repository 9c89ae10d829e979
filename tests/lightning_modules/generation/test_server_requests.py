"""Requests and answers of servers, without a server."""

import pytest

from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.server_requests import (
    Piece,
    body_of,
    fault_of,
    pieces_of,
    sample_seed,
    shares,
    texts_of,
)

WARM = SamplingParameters(temperature=0.7, max_new_tokens=20, seed=3)
USER = {"role": "user", "content": "How many?"}


def test_seeds_depend_on_seed_and_key_and_count_up_within_a_prompt():
    first = sample_seed(3, "mmpr/17/solution/0")
    assert [sample_seed(3, f"mmpr/17/solution/{number}") for number in range(300)] == list(range(first, first + 300))
    others = {sample_seed(4, "mmpr/17/solution/0"), sample_seed(3, "mmpr/18/solution/0"), sample_seed(3, "mmpr/17/0")}
    assert len(others | {first}) == 4
    keys = [f"prompt-{number}" for number in range(2000)]
    seeds = [sample_seed(0, key) for key in keys]
    assert len(set(seeds)) == 2000
    assert 0 <= min(seeds)
    assert max(seeds) < 2**31
    assert max(seeds) > 2**30  # all the room is used
    # A number that is written otherwise is part of the name.
    assert sample_seed(3, "a/07") != sample_seed(3, "a/7")


def test_no_two_samples_of_a_prompt_have_the_same_seed():
    """However they are asked for: a server counts up from the seed of a request."""
    keys = [f"p/{number}" for number in (0, 1, 2, 3, 4, 7, 8, 20, 21, 22, 23)]
    for most in (1, 2, 3, 16):
        pieces = pieces_of(keys, WARM, most)
        assert max(piece.samples for piece in pieces) <= most
        drawn = {}
        for piece in pieces:
            for place in range(piece.samples):
                drawn[keys[piece.first + place]] = piece.seed + place
        assert drawn == {key: sample_seed(3, key) for key in keys}
        assert len(set(drawn.values())) == len(keys)
    assert [(piece.first, piece.samples) for piece in pieces_of(keys, WARM, 16)] == [(0, 5), (5, 2), (7, 4)]


def test_a_greedy_text_is_asked_for_once():
    assert pieces_of(["p/0", "p/1", "p/2"], SamplingParameters(temperature=0), 16) == [Piece(0, 1, None)]


def test_every_parameter_is_sent():
    body = body_of("large", [USER], WARM, Piece(0, 4, 17))
    assert body == {
        "model": "large",
        "messages": [USER],
        "n": 4,
        "seed": 17,
        "max_tokens": 20,
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "skip_special_tokens": True,
        "stream": False,
    }
    narrow = SamplingParameters(temperature=0, top_p=0.9, top_k=50, stop=("\n\n\n", "END"))
    partial = {"role": "assistant", "content": "So"}
    body = body_of("large", [USER, partial], narrow, Piece(0, 1, None))
    assert "seed" not in body
    assert (body["top_p"], body["top_k"]) == (0.9, 50)
    assert (body["stop"], body["include_stop_str_in_output"]) == (["\n\n\n", "END"], True)
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def choice(index, text, reason="stop", **more):
    return {"index": index, "message": {"role": "assistant", "content": text, **more}, "finish_reason": reason}


def test_texts_come_in_the_order_of_their_seeds_and_tokens_add_up():
    usage = {"prompt_tokens": 12, "completion_tokens": 11}
    answer = {"choices": [choice(2, "ccc"), choice(0, "a", "length"), choice(1, None)], "usage": usage}
    assert fault_of(answer) is None
    texts = texts_of(answer)
    assert [(text.text, text.finish_reason, text.prompt_tokens) for text in texts] == [
        ("a", "length", 12),
        ("", "stop", 12),
        ("ccc", "stop", 12),
    ]
    assert sum(text.completion_tokens for text in texts) == 11


@pytest.mark.parametrize(("total", "weights"), [(10, [1, 1, 1]), (0, [3, 4]), (7, [5]), (3, [1, 9, 1, 9])])
def test_shares_add_up(total, weights):
    found = shares(total, weights)
    assert sum(found) == total
    assert all(abs(share - total * weight / sum(weights)) < 1 for share, weight in zip(found, weights, strict=True))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({}, "no choices"),
        ({"error": {"message": "out of memory"}}, "out of memory"),
        ({"choices": []}, "no choices"),
        ({"choices": [{"index": 0}]}, "without a message"),
        ({"choices": [choice(0, "half", "abort")]}, "finish_reason 'abort'"),
        ({"choices": [choice(0, "half", None)]}, "finish_reason None"),
    ],
)
def test_an_answer_that_holds_no_finished_text_is_no_answer(answer, words):
    assert words in fault_of(answer)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_texts_that_the_server_has_taken_apart_are_refused(field):
    with pytest.raises(ValueError, match="without a reasoning parser"):
        texts_of({"choices": [choice(0, "2", **{field: "So 1 + 1"})]})
