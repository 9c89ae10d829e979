"""Classes of equal answers."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples

from datamodules.answers.vote import equivalence_classes


def test_hand_worked():
    assert equivalence_classes(["1/2", "A", "0.5", None, "a", r"\frac{1}{2}", "B"]) == [0, 1, 0, -1, 1, 0, 2]
    assert equivalence_classes([]) == []
    assert equivalence_classes([None, None]) == [-1, -1]


def test_where_equality_is_not_transitive_the_more_frequent_unit_gets_the_bare_number():
    assert equivalence_classes(["5", "5 cm", "5 m"]) == [0, 0, 1]
    assert equivalence_classes(["5 cm", "5 m", "5"]) == [0, 1, 0]
    assert equivalence_classes(["5", "5 m", "5 cm", "5 m"]) == [0, 0, 1, 0]
    assert equivalence_classes(["x = 2", "y = 2", "2"]) == [0, 1, 0]
    assert equivalence_classes(["50", "50%", "0.5", "3 cm"]) == [0, 0, 0, 1]


POOL = ["5", "5.0", "5 cm", "50 mm", "5 m", "10/2", "x = 5", "50%", "0.5", "B", "b", "1, 2", "2, 1", "(1, 2)", None, ""]


@given(
    st.lists(st.sampled_from(POOL), max_size=10).flatmap(lambda pool: st.tuples(st.just(pool), st.permutations(pool)))
)
@settings(deadline=None, max_examples=examples(150))
def test_classes_do_not_depend_on_the_order(pair):
    def partition(answers):
        groups = {}
        for answer, number in zip(answers, equivalence_classes(answers), strict=True):
            groups.setdefault(number, []).append(str(answer))
        return sorted(sorted(group) for group in groups.values())

    assert partition(pair[0]) == partition(pair[1])


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3)), max_size=12))
@settings(deadline=None)
def test_integers_fall_into_classes_by_value_in_order_of_appearance(values):
    spellings = itertools.cycle(["{}", "{}.0", "${}$", "x = {}"])
    answers = [None if value is None else next(spellings).format(value) for value in values]
    order = list(dict.fromkeys(value for value in values if value is not None))
    assert equivalence_classes(answers) == [-1 if value is None else order.index(value) for value in values]
