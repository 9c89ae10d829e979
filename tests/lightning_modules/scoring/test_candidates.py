import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_scoring import score_literally, score_step_by_step
from peft import LoraConfig, inject_adapter_in_model
from property_examples import examples
from transformers import AutoModelForImageTextToText

from datamodules.conversation.candidates import encode_candidates
from datamodules.conversation.encoder import ConversationEncoder
from lightning_modules.model.backbone import load_processor
from lightning_modules.model.step_head import StepHead
from lightning_modules.scoring.candidates import score_candidates

QUESTIONS = {
    # name: (question, pictures, candidates)
    "one image": (
        "How many digits are larger than 4 ?",
        [1],
        [["The digits are 3 , 7 and 9 .", "So the answer is 2 ."], ["The digits are 3 .", "9", "So 7"], ["2"]],
    ),
    "text only": ("How many?", [], [["The digits are 7 .", "+ -", "So the answer is \\boxed{9} ."]]),
    "two images": (
        "Is <image> larger than <image> ?",
        [2, 3],
        [["The", "answer"], ["The", "digits", "are 3"], ["The", "answer"], ["The", "digits"]],
    ),
    "images first": ("Are both larger?", [4, 5], [["The digits are 3"], ["So 3"]]),
    "equal candidates": ("How many?", [6], [["The digits are 7 .", "So 3"]] * 3),
    "empty response": ("How many?", [7], [[""], ["7"]]),
}
BATCHES = [
    *([name] for name in QUESTIONS),
    ["one image", "text only", "two images"],
    ["text only", "empty response"],
    ["two images", "equal candidates", "one image", "images first", "text only", "empty response"],
]


@pytest.fixture(scope="module")
def processor(sharp_checkpoint):
    return load_processor(sharp_checkpoint)


@pytest.fixture(scope="module")
def sharp_checkpoint_model(sharp_checkpoint):
    return AutoModelForImageTextToText.from_pretrained(sharp_checkpoint).eval()


@pytest.fixture(params=["", "You check solutions ."], ids=["no system turn", "system turn"])
def encoder(processor, request):
    return ConversationEncoder(processor, request.param, ("+", "-"))


def score(model, encoder, picture, names):
    return score_questions(model, encoder, picture, [QUESTIONS[name] for name in names])


def score_questions(model, encoder, picture, questions):
    groups = []
    for question, pictures, candidates in questions:
        groups.append(encode_candidates(encoder, [picture(i) for i in pictures], question, candidates, question))
    head = StepHead(model, encoder.class_token_ids)
    with torch.no_grad():
        found = score_candidates(model, head, groups, encoder.processor.tokenizer.pad_token_id)
    return [[logits.softmax(-1)[:, 0].tolist() for logits in of_question] for of_question in found]


@pytest.mark.parametrize("names", BATCHES, ids=", ".join)
def test_equals_one_forward_a_response_and_one_forward_a_step(sharp_model, encoder, processor, picture, names):
    found = score(sharp_model, encoder, picture, names)
    assert len(found) == len(names)
    for name, of_question in zip(names, found, strict=True):
        question, pictures, candidates = QUESTIONS[name]
        for steps, scores in zip(candidates, of_question, strict=True):
            arguments = (processor, [picture(i) for i in pictures], question, steps, encoder.system_prompt)
            assert scores == pytest.approx(score_literally(sharp_model, *arguments), abs=1e-5)
            assert scores == pytest.approx(score_step_by_step(sharp_model, *arguments), abs=1e-5)


def test_scores_depend_on_pictures_question_and_steps(sharp_model, processor, picture):
    """Otherwise the comparison above would say little."""
    encoder = ConversationEncoder(processor, "", ("+", "-"))
    ((first, second, third),) = score(sharp_model, encoder, picture, ["one image"])
    assert len({round(s, 3) for s in (*first, *second, *third)}) == 6
    question, _, candidates = QUESTIONS["one image"]
    for images, text in ([picture(8)], question), ([], question), ([picture(1)], "How many digits are larger?"):
        others = score_literally(sharp_model, processor, images, text, candidates[0], "")
        assert max(abs(a - b) for a, b in zip(first, others, strict=True)) > 1e-3


def test_two_forwards_whatever_the_batch(sharp_model, processor, picture):
    """Ranks of a distributed run stay in step only if all run the same number of forwards."""
    encoder = ConversationEncoder(processor, "", ("+", "-"))
    lengths = []
    sharp_model.model.language_model.register_forward_hook(lambda *_: lengths.append(1))
    for names in BATCHES:
        score(sharp_model, encoder, picture, names)
    assert len(lengths) == 2 * len(BATCHES)


def test_the_image_is_read_once(sharp_model, processor, picture):
    encoder = ConversationEncoder(processor, "", ("+", "-"))
    sizes = []
    sharp_model.model.vision_tower.register_forward_hook(lambda _, __, output: sizes.append(len(output[0])))
    score(sharp_model, encoder, picture, ["one image", "text only", "two images"])
    assert sizes == [3]


STEPS = st.lists(st.sampled_from(["The digits", "The digits are 3", "3", "37", "", "So the answer is 7 ."]), min_size=1)
RANDOM_QUESTIONS = st.lists(
    st.tuples(
        st.sampled_from([("How many?", 0), ("How many?", 1), ("Is <image> larger than <image> ?", 2)]),
        st.lists(STEPS.map(lambda steps: steps[:4]), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=examples(25))
@given(questions=RANDOM_QUESTIONS)
def test_random_candidates(sharp_checkpoint_model, processor, picture, questions):
    """Candidates that begin alike within a word, are equal, or of which one goes on where another ends."""
    encoder = ConversationEncoder(processor, "", ("+", "-"))
    asked = [(question, list(range(count)), candidates) for (question, count), candidates in questions]
    found = score_questions(sharp_checkpoint_model, encoder, picture, asked)
    for (question, pictures, candidates), of_question in zip(asked, found, strict=True):
        for steps, scores in zip(candidates, of_question, strict=True):
            images = [picture(i) for i in pictures]
            expected = score_literally(sharp_checkpoint_model, processor, images, question, steps, "")
            assert scores == pytest.approx(expected, abs=1e-5)


def test_only_what_is_needed_is_computed(sharp_model, processor, picture):
    """Equal candidates once, nothing behind the last judgement, no padding, and no vocabulary logits."""
    encoder = ConversationEncoder(processor, "", ("+", "-"))
    rows = []
    sharp_model.model.language_model.layers[0].register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape))
    sharp_model.lm_head.register_forward_hook(lambda *_: pytest.fail("vocabulary logits"))
    candidates = [["The digits", "So 3"], ["The digits are 3"], ["The digits", "So 3"]]
    score_questions(sharp_model, encoder, picture, [("How many?", [1], candidates)])
    encoded = encode_candidates(encoder, [picture(1)], "How many?", candidates, "x")
    prefix = encoded.prefix["input_ids"].shape[1]
    needed = [int(positions[-1]) + 1 for positions in encoded.step_positions[:2]]
    assert [row[:2] for row in rows] == [(1, prefix), (1, sum(needed))]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_adapters_and_attention_implementations(sharp_checkpoint, processor, picture, implementation):
    model = AutoModelForImageTextToText.from_pretrained(sharp_checkpoint, attn_implementation=implementation).eval()
    encoder = ConversationEncoder(processor, "", ("+", "-"))
    plain = score(model, encoder, picture, ["one image"])
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|down_proj)"
    inject_adapter_in_model(LoraConfig(r=4, target_modules=targets, init_lora_weights=False), model)
    ((*found,),) = score(model, encoder, picture, ["one image"])
    question, pictures, candidates = QUESTIONS["one image"]
    for steps, scores, before in zip(candidates, found, plain[0], strict=True):
        expected = score_literally(model, processor, [picture(i) for i in pictures], question, steps, "")
        assert scores == pytest.approx(expected, abs=1e-5)
        assert scores != pytest.approx(before, abs=1e-3)
