"""Every family scores as whole forwards do, over random questions and candidates made of token ids."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples
from small_models import FIRST_TEXT_ID, MODELS, UNSHARED, VOCABULARY, make_model, make_prompt

from datamodules.conversation.candidates import EncodedCandidates
from lightning_modules.model.positions import positions_of, prompt_positions
from lightning_modules.model.step_head import StepHead
from lightning_modules.scoring.candidates import score_candidates
from lightning_modules.scoring.shared_prefix import shared_prefix_obstacle

CLASS_IDS = [11, 12]
# Few different tokens, so that candidates often begin alike or are equal.
TOKENS = st.integers(FIRST_TEXT_ID, FIRST_TEXT_ID + 3)
STEPS = st.lists(st.lists(TOKENS, min_size=1, max_size=5), min_size=1, max_size=4)
QUESTIONS = st.tuples(
    st.lists(st.integers(0, 5), max_size=2),
    st.lists(st.integers(FIRST_TEXT_ID, VOCABULARY - 1), min_size=1, max_size=6),
    st.lists(STEPS, min_size=1, max_size=5),
)


@pytest.fixture(scope="module", params=MODELS)
def family(request):
    return request.param, make_model(request.param)


def encode(name, model, questions):
    """Questions of (pictures, text, candidates of steps of token ids); each step's last token is judged."""
    groups = []
    for pictures, text, candidates in questions:
        ends = [torch.tensor([len(step) for step in steps]).cumsum(0) for steps in candidates]
        suffixes = [torch.tensor([token for step in steps for token in step]) for steps in candidates]
        groups.append(EncodedCandidates(make_prompt(name, model, pictures, text), suffixes, [e - 1 for e in ends]))
    return groups


@torch.no_grad()
def score(model, groups, memory_gib=None):
    logits = score_candidates(model, StepHead(model, CLASS_IDS), groups, 0, memory_gib)
    return [[candidate.softmax(-1)[:, 0] for candidate in of_question] for of_question in logits]


@torch.no_grad()
def score_literally(name, model, pictures, text, steps):
    """One whole forward of the model as it is, positions and masks its own, with vocabulary logits."""
    ids = [token for step in steps for token in step]
    inputs = make_prompt(name, model, pictures, [*text, *ids])
    inputs = {key: value.to(model.dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    ends = torch.tensor([len(step) for step in steps]).cumsum(0) - 1 - len(ids)
    return model(**inputs, use_cache=False).logits[0, ends][:, CLASS_IDS].float().softmax(-1)[:, 0]


def test_which_families_share_prefixes(family):
    name, model = family
    assert (shared_prefix_obstacle(model) is not None) == (name in UNSHARED)


@settings(max_examples=examples(20))
@given(st.lists(QUESTIONS, min_size=1, max_size=3), st.sampled_from([None, 1e-9, 1e-4, 1.0]))
def test_equals_one_forward_a_response(family, questions, memory_gib):
    name, model = family
    found = score(model, encode(name, model, questions), memory_gib)
    assert [len(of_question) for of_question in found] == [len(candidates) for _, _, candidates in questions]
    for (pictures, text, candidates), of_question in zip(questions, found, strict=True):
        for steps, scores in zip(candidates, of_question, strict=True):
            expected = score_literally(name, model, pictures, text, steps)
            assert scores.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


PICTURES, TEXT = [1, 2], [20, 21, 22]
CANDIDATES = [[[30, 31], [32]], [[30, 31, 33], [34], [35, 36]], [[37]]]


def test_scores_depend_on_all_that_is_read_and_on_nothing_else(family):
    """Otherwise the comparison above would say little."""
    name, model = family
    ((first, second, third),) = score(model, encode(name, model, [(PICTURES, TEXT, CANDIDATES)]))
    assert len({round(value, 3) for value in [*first.tolist(), *second.tolist(), *third.tolist()]}) == 6
    changes = {
        "another question": (PICTURES, [20, 21, 23], CANDIDATES),
        "an earlier word": (PICTURES, [24, 21, 22], CANDIDATES),
        "another first step": (PICTURES, TEXT, [[[30, 38], [32]], *CANDIDATES[1:]]),
    }
    if MODELS[name].images:
        changes |= {
            "another picture": ([1, 4], TEXT, CANDIDATES),
            "pictures of another size": ([2, 2], TEXT, CANDIDATES),
            "another order": ([2, 1], TEXT, CANDIDATES),
            "no picture": ([], TEXT, CANDIDATES),
        }
    for what, question in changes.items():
        ((changed, *_),) = score(model, encode(name, model, [question]))
        assert (changed - first).abs().max() > 1e-3, what
    others = [[[39], [40]], CANDIDATES[0], [[41, 42, 43, 44]]]
    ((_, same, _),) = score(model, encode(name, model, [(PICTURES, TEXT, others)]))
    torch.testing.assert_close(same, first, atol=1e-6, rtol=0)


def test_wrong_positions_would_be_noticed(family, monkeypatch):
    name, model = family
    if name in UNSHARED:
        pytest.skip("positions are the model's own")
    groups = encode(name, model, [(PICTURES, TEXT, CANDIDATES)])
    right = torch.cat(score(model, groups)[0])

    def one_too_far(backbone, inputs):
        positions, starts = prompt_positions(backbone, inputs)
        return positions, starts + 1

    def one_number_a_token(backbone, inputs):
        return positions_of(inputs["attention_mask"]), inputs["attention_mask"].sum(-1)

    wrongs = [one_too_far, *([one_number_a_token] if MODELS[name].token_types else [])]
    for wrong in wrongs:
        monkeypatch.setattr("lightning_modules.scoring.candidates.prompt_positions", wrong)
        assert (torch.cat(score(model, groups)[0]) - right).abs().max() > 1e-3


def test_sixteen_bits(family):
    """Against float32, ours errs no more than whole forwards in bfloat16 do, which round, too."""
    name, _ = family
    precise, rough = make_model(name), make_model(name).to(torch.bfloat16)
    expected = torch.cat([score_literally(name, precise, PICTURES, TEXT, steps) for steps in CANDIDATES])
    whole = torch.cat([score_literally(name, rough, PICTURES, TEXT, steps) for steps in CANDIDATES])
    found = torch.cat(score(rough, encode(name, precise, [(PICTURES, TEXT, CANDIDATES)]))[0])
    noise = (whole - expected).abs().max()
    assert 1e-4 < noise < 0.05
    assert (found - expected).abs().max() < 2 * noise + 0.005


def test_a_family_that_cannot_share_says_so_by_name(family, monkeypatch):
    name, model = family
    groups = encode(name, model, [(PICTURES, TEXT, CANDIDATES)])
    lines = []
    monkeypatch.setattr("lightning_modules.scoring.candidates._logger.warning_once", lines.append)
    score(model, groups)
    if name in UNSHARED:
        assert lines[0].startswith(f"{name}: every response is read from its beginning")
        assert "DynamicSlidingWindowLayer" in lines[0]
    else:
        assert not lines
