"""Beside plain forwards of `transformers` over the whole chat, one request at a time."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from datamodules.policy.chat import ChatRenderer
from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.token_probabilities import TokenProbabilities, by_question, option_tokens
from lightning_modules.generation.transformers_engine import TransformersEngine

QUESTION = "How many digits are larger than 4 ?"
PARTIALS = ["", "The digits are ", "The digits are 3 , 7 and 9 .\n\nSo", "The digits are  "]
OPTIONS = (("3", "The"), ("7",))


@pytest.fixture
def plain(sharp_model, processor):
    return TransformersEngine.of(sharp_model, processor)


@pytest.fixture
def groups(processor, picture):
    renderer = ChatRenderer(processor)
    asked = [(QUESTION, [picture(1)]), ("Is <image> larger than <image> ?", [picture(2), picture(3)]), (QUESTION, [])]
    return [
        [
            GenerationRequest(renderer.messages(text, len(images)), images, [f"{number}/{n}"], partial)
            for n, partial in enumerate(PARTIALS[: 4 - number])
        ]
        for number, (text, images) in enumerate(asked)
    ]


def forward(model, processor, request, text):
    """Token ids without and with expanded pictures, and log-probabilities of the next token at each place."""
    chat = processor.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True) + text
    images = list(request.images)
    inputs = processor(text=[chat], images=[images] if images else None, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        logprobs = model(**inputs).logits[0].double().log_softmax(-1)
    return inputs["input_ids"][0].tolist(), logprobs


def test_options_are_as_likely_as_in_a_plain_forward(plain, sharp_model, processor, groups):
    assert isinstance(plain, TokenProbabilities)
    found = plain.option_logprobs(groups, OPTIONS)
    assert [len(each) for each in found] == [4, 3, 2]
    for of_group, requests in zip(found, groups, strict=True):
        for logprobs, request in zip(of_group, requests, strict=True):
            expected = []
            for spellings in OPTIONS:
                probability = 0.0
                for spelling in spellings:
                    ids, everything = forward(sharp_model, processor, request, request.partial_response + spelling)
                    # Spellings are tokens of this tokenizer, so that the last token is what counts.
                    probability += float(everything[len(ids) - 2, ids[-1]].exp())
                expected.append(probability)
            assert logprobs.exp().tolist() == pytest.approx(expected, rel=1e-4)


def test_options_that_begin_alike_are_refused(plain, groups):
    with pytest.raises(ValueError, match=r"0/0: the options 3, 3 7 begin with the same token"):
        plain.option_logprobs(groups, (("3", "9"), ("3 7",)))


def words_tokenizer():
    """Knows "9.", ".\\n\\n" as one token, " yes" with its space, and single letters."""
    vocabulary = {letter: number for number, letter in enumerate(".\n 0123456789abcdefghijklmnopqrstuvwxyz")}
    merges = [("\n", "\n"), (".", "\n\n"), ("e", "s"), ("y", "es"), (" ", "yes")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocabulary, merges)))


class WordsProcessor:
    tokenizer = words_tokenizer()

    def apply_chat_template(self, messages, **options):
        return messages[0]["content"]


@pytest.mark.parametrize(
    ("partial", "held"),
    [
        ("is 9.\n\n", "is 9.\n\n"),  # joined with the full stop, as a token before the options
        ("is 9 ", "is 9"),  # joined with "yes"
        ("is 9", "is 9"),
        ("is y", None),  # with "es" its end is one token, " yes"
        ("", ""),
    ],
)
def test_what_stands_before_options(partial, held):
    processor = WordsProcessor()
    options = (("es",), ("no",)) if held is None else (("yes",), ("no",))
    request = GenerationRequest([{"role": "user", "content": "q"}], [], ["a"], partial)
    tokens = option_tokens(processor, request, options)
    assert tokens.partial == held
    before = processor.tokenizer.convert_ids_to_tokens(tokens.row[: tokens.length])
    assert "".join(before) == ("qis" if held is None else f"q{held}")


@pytest.mark.parametrize("cut_at", [None, 4])
def test_responses_are_as_likely_as_in_a_plain_forward(plain, sharp_model, processor, groups, cut_at):
    end = processor.tokenizer.eos_token_id
    for of_group, requests in zip(plain.response_logprobs(groups, cut_at), groups, strict=True):
        for logprobs, request in zip(of_group, requests, strict=True):
            begin = len(forward(sharp_model, processor, request, "")[0])
            ids, everything = forward(sharp_model, processor, request, request.partial_response)
            expected = [float(everything[place - 1, ids[place]]) for place in range(begin, len(ids))]
            if cut_at is None or len(expected) < cut_at:
                expected.append(float(everything[-1, end]))
            assert logprobs.tolist() == pytest.approx(expected, abs=1e-4)


def test_requests_by_question():
    requests = [GenerationRequest([], [], [str(number)]) for number in range(4)]
    groups, numbers = by_question(requests, lambda number: [1, 0, 1, 2][number])
    assert numbers == [[0, 2], [1], [3]]
    assert [[request.sample_keys[0] for request in group] for group in groups] == [["0", "2"], ["1"], ["3"]]
