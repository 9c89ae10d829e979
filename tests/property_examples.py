"""How many examples a property test draws: a quarter of what it names, all of them under `--hypothesis-profile=all`."""

from hypothesis import settings

FEWEST = 5


def examples(number: int) -> int:
    """What `max_examples` is under the profile that is loaded, for a test that draws ``number`` in `make test-all`."""
    return max(FEWEST, number * settings().max_examples // 100)
