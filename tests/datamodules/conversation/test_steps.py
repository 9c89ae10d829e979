import pytest

from datamodules.conversation.steps import merge_steps, merged_sizes, response_steps, split_into_steps


@pytest.mark.parametrize(
    ("response", "steps"),
    [
        ("one", ["one"]),
        ("one\n\ntwo\nstill two\n\nthree", ["one", "two\nstill two", "three"]),
        ("\n\n one \n\n\n\ntwo\n\n\nthree\n", ["one", "two", "three"]),
        ("", []),
        (" \n\n \n\n", []),
    ],
)
def test_split(response, steps):
    assert split_into_steps(response) == steps


def test_merging_is_even():
    letters = list("abcdefghijklmnopqrstuvwxy")
    assert merge_steps(letters[:12], 12) == letters[:12]
    assert merge_steps(letters[:13], 12) == ["a\n\nb", "c\n\nd", "e\n\nf", "g\n\nh", "i\n\nj", "k\n\nl", "m"]
    assert merge_steps(letters[:25], 12) == [
        "\n\n".join(letters[start : start + 3]) for start in (0, 3, 6, 9, 12, 15, 18, 21, 24)
    ]
    assert merge_steps(letters[:3], 1) == ["a\n\nb\n\nc"]
    assert merge_steps([], 12) == []


@pytest.mark.parametrize("max_steps", [1, 2, 3, 5, 12])
def test_merging_loses_nothing_and_keeps_the_limit(max_steps):
    for count in range(40):
        sizes = merged_sizes(count, max_steps)
        assert sum(sizes) == count
        assert len(sizes) <= max_steps
        assert len(set(sizes[:-1])) <= 1
        steps = [str(number) for number in range(count)]
        assert split_into_steps("\n\n".join(merge_steps(steps, max_steps))) == steps


def test_max_steps_must_be_positive():
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        merge_steps(["a"], 0)


def test_a_response_always_has_a_step():
    assert response_steps("a\n\nb\n\nc", 2) == ["a\n\nb", "c"]
    assert response_steps("a\n\n\nb ", as_one_step=True) == ["a\n\nb"]
    assert response_steps(" \n\n ") == [""]
    assert response_steps("", as_one_step=True) == [""]


def test_white_space_as_released():
    """Every piece between blank lines is a step; 13 of them, two blank, become ceil(13 / 12) = 2 to a step."""
    pieces = ["a", "", "  b ", "c", " ", *"defghijk"]
    response = "\n\n".join(pieces)
    assert len(pieces) == 13
    assert split_into_steps(response, "released") == pieces
    released = response_steps(response, 12, white_space="released")
    assert released == ["a\n\n", "  b \n\nc", " \n\nd", "e\n\nf", "g\n\nh", "i\n\nj", "k"]
    assert "\n\n".join(released) == response
    assert len(response_steps(response, 12)) == 11
    assert response_steps(response, as_one_step=True, white_space="released") == [response]
    assert response_steps("", white_space="released") == [""]
