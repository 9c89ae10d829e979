"""Searches of a policy and a reward model that follow rules: what is sampled, with which keys, and what it costs."""

import pytest

from datamodules.policy.chat import ChatRenderer
from datamodules.policy.prompt_batches import PromptCollator
from datamodules.policy.prompts import Prompt
from lightning_modules.generation.batches import serve_in_batches
from lightning_modules.generation.engine import GeneratedText, PromptRefusedError
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.stop_strings import cut_at_stop
from lightning_modules.search.options import SearchOptions
from lightning_modules.search.window import SearchWindow

SAMPLING = SamplingParameters(temperature=1.0, max_new_tokens=30)


class Counter:
    """Continues with the number of a sample, and ends behind three steps; every word is a token.

    Args:
        blank: Beginnings behind which every step is blank.
    """

    needs_all_ranks = False

    def __init__(self, blank=()):
        self.blank = blank
        self.asked = []

    def attach(self, model, processor):
        pass

    def sample(self, requests, parameters):
        self.asked += [(request, parameters) for request in requests]
        return [[self.answer(request, key, parameters) for key in request.sample_keys] for request in requests]

    def serve(self, source, parameters):
        serve_in_batches(self, source, parameters, 99)

    def answer(self, request, key, parameters):
        before = request.partial_response.strip().split("\n\n") if request.partial_response else []
        steps = [str(key.rpartition("/")[2])] + ["x"] * (2 - len(before))
        is_blank = request.partial_response.strip() in self.blank and parameters.stop
        text = "\n\n" if is_blank else "\n\n".join(steps)
        words = text.replace("\n\n", " | ").split()
        if parameters.stop and "|" in words:
            words = words[: words.index("|") + 1]
        words = words[: parameters.max_new_tokens]
        text = "".join("\n\n" if word == "|" else word for word in words)
        return cut_at_stop(GeneratedText(text, "stop", 5, len(words)), parameters.stop)


def batch_of(names, **options):
    prompts = [Prompt(name, "Why?", (), "2", "s", list, None) for name in names]
    return PromptCollator(ChatRenderer(None), **options)(prompts)


def digits(texts):
    """The score of a step is its digit, a tenth of it; x is 0."""
    return [
        [[int(step) / 10 if step.isdigit() else 0.0 for step in text.split("\n\n")] for text in of_question]
        for _, of_question in texts
    ]


def searched(names, engine, score=digits, is_readable=lambda text: True, sampling=SAMPLING, **options):
    window = SearchWindow(batch_of(names), SearchOptions(**options), sampling, score, "mean", is_readable=is_readable)
    window.run(engine)
    return window


def test_a_beam_search_samples_what_it_says():
    engine = Counter()
    window = searched(["a"], engine, width=2, expansion=3)
    tree = window.searches[0].tree
    # Six first steps, then three of each of two beams, twice.
    assert [len(request.sample_keys) for request, _ in engine.asked] == [6, 3, 3, 3, 3]
    assert [request.partial_response for request, _ in engine.asked[:3]] == ["", "5\n\n", "4\n\n"]
    assert {parameters.stop for _, parameters in engine.asked} == {("\n\n",)}
    # Last steps of the two best beams: 5, 2 and 5, 1 with 3 new ones each, of which the best two end the search.
    assert sorted(node.text for node in tree.finished if node.is_kept) == ["5\n\n2\n\n1", "5\n\n2\n\n2"]
    # A step and its separator are two tokens; the last step of three is one.
    assert (tree.samples, tree.sampled_tokens) == (18, 6 * 2 + 6 * 2 + 6)
    assert window.searches[0].costs.completion_tokens == tree.sampled_tokens
    # What is left of the 30 tokens of a solution.
    assert [parameters.max_new_tokens for _, parameters in engine.asked] == [30, 28, 28, 26, 26]


def test_a_search_is_the_same_beside_others():
    alone, together = Counter(), Counter()
    one = searched(["a"], alone, method="best_first", expansion=2, solutions=2)
    both = searched(["b", "a"], together, method="best_first", expansion=2, solutions=2)
    assert one.searches[0].tree.record() == both.searches[1].tree.record()
    keys = [key for request, _ in alone.asked for key in request.sample_keys]
    assert len(set(keys)) == len(keys)
    assert set(keys) < {key for request, _ in together.asked for key in request.sample_keys}
    assert all(key.startswith("a/search/") for key in keys)


def test_looking_ahead_changes_values_and_costs_tokens():
    def of_the_end(texts):
        """Only whole solutions are worth something: the less the larger their first digit is."""
        return [
            [[0.0] * len(steps[:-1]) + [1 - int(steps[0]) / 10 if len(steps) == 3 else 0.0] for steps in of_question]
            for of_question in [[text.split("\n\n") for text in each] for _, each in texts]
        ]

    blind, seeing = Counter(), Counter()
    options = {"width": 1, "expansion": 3, "value": "last"}
    assert searched(["a"], blind, of_the_end, **options).searches[0].tree.finished[0].text.startswith("0")
    window = searched(["a"], seeing, of_the_end, lookahead=2, **options)
    tree = window.searches[0].tree
    first = [node for node in tree.nodes if node.depth == 1]
    assert [node.value for node in first] == [1.0, 0.9, 0.8]
    assert [node.step_scores for node in first] == [[0.0]] * 3
    greedy = [parameters for request, parameters in seeing.asked if "/ahead/" in request.sample_keys[0]]
    assert {parameters.temperature for parameters in greedy} == {0.0}
    # Three first steps look two steps ahead (2 + 1 tokens), three second ones one (1 token).
    assert tree.lookahead_tokens == 3 * 3 + 3
    assert tree.sampled_tokens == tree.lookahead_tokens + 3 * 2 + 3 * 2 + 3


def test_blank_and_unreadable_steps_are_dropped():
    engine = Counter(blank=("1",))
    window = searched(["a"], engine, width=1, expansion=2, is_readable=lambda text: text != "0")
    tree = window.searches[0].tree
    # Of the first steps 0 cannot be read. Behind 1 all steps are blank, so that the rest is written in one go.
    assert (tree.samples, tree.dropped) == (2 + 2 + 1, 1 + 2)
    assert [request.sample_keys[0].split("/")[-2] for request, _ in engine.asked] == ["step", "step", "end"]
    assert [node.text for node in tree.finished] == ["1\n\n0\n\nx"]


def test_a_deep_solution_is_written_to_its_end():
    engine = Counter()
    tree = searched(["a"], engine, width=1, expansion=2, max_depth=1).searches[0].tree
    assert [node.text for node in tree.finished] == ["1\n\n0\n\nx", "1\n\n1\n\nx"]
    assert [parameters.stop for _, parameters in engine.asked] == [("\n\n",), ()]


def test_a_solution_that_is_cut_has_ended():
    tree = searched(["a"], Counter(), width=1, expansion=2, sampling=SamplingParameters(max_new_tokens=3))
    assert {node.text for node in tree.searches[0].tree.finished} == {"1\n\n0", "1\n\n1"}


def test_a_prompt_that_is_refused_is_left_out():
    class Refusing(Counter):
        def serve(self, source, parameters):
            while requests := source.take(99):
                for request in requests:
                    if request.sample_keys[0].startswith("b") and request.partial_response:
                        source.refuse(request, PromptRefusedError("too long"))
                    else:
                        source.receive(request, self.sample([request], request.parameters)[0])

    batch = batch_of(["a", "b"], on_bad_row="skip")
    window = SearchWindow(batch, SearchOptions(width=1, expansion=2), SAMPLING, digits, "mean")
    window.run(Refusing())
    assert window.searches[1] is None
    assert list(batch.left_out) == ["b"]
    assert window.searches[0].tree.finished
    batch = batch_of(["b"])
    with pytest.raises(PromptRefusedError, match="too long"):
        SearchWindow(batch, SearchOptions(), SAMPLING, digits, "mean").run(Refusing())


def test_a_stop_string_of_the_user_ends_a_solution():
    """Blank lines end steps; what stops at another string is not gone on from."""

    class Closing(Counter):
        def answer(self, request, key, parameters):
            return cut_at_stop(GeneratedText("1</answer> 2\n\n3", "stop", 5, 4), parameters.stop)

    sampling = SamplingParameters(temperature=1.0, max_new_tokens=30, stop=("</answer>",))
    options = SearchOptions(width=1, expansion=1)
    window = SearchWindow(batch_of(["a"]), options, sampling, digits, "mean")
    window.run(Closing())
    (search,) = window.searches
    assert [(node.step, node.ended) for node in search.tree.nodes[1:]] == [("1", "stop")]


def test_different_first_steps_are_dealt_to_the_groups():
    """Equal ones are one beginning, which must not take the places of other groups."""

    class Few(Counter):
        def answer(self, request, key, parameters):
            if request.partial_response:
                return super().answer(request, key, parameters)
            step = "72"[int(key.rpartition("/")[2]) in (5, 7)]
            return cut_at_stop(GeneratedText(f"{step}\n\nx", "stop", 5, 2), parameters.stop)

    options = SearchOptions(width=2, expansion=4, groups=2)
    window = SearchWindow(batch_of(["a"]), options, SAMPLING, digits, "mean")
    window.run(Few())
    (search,) = window.searches
    first = [node for node in search.tree.nodes if node.parent is search.tree.root]
    assert [(node.step, node.group) for node in first] == [("7", 0), ("2", 1)]
    # Each group has gone on from its own beginning, though one is worth less than the other.
    assert {node.parent.step for node in search.tree.nodes if node.depth == 2} == {"7", "2"}
