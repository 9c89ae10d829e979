"""Step positions of ten model families against their conversations written out by hand, turn by turn."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from tiny_families import FAMILIES, MULTIMODAL

from datamodules.conversation.chat_layout import ChatLayout
from datamodules.conversation.encoder import Conversation, ConversationEncoder
from datamodules.conversation.messages import build_messages
from lightning_modules.model.backbone import load_processor

SYSTEM = "You check every step."
STEPS = ["There are 3.", "So 3 + 4 = 7:\n\\[ 7 \\]", "+", "- is 2!"]


def picture(number, size=(40, 30)):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


PICTURES = [picture(1), picture(2, (64, 32)), picture(3, (32, 64))]


@pytest.fixture(scope="session")
def processor_of(family_checkpoint):
    return lambda name: load_processor(family_checkpoint(name))


def cases():
    for name, family in FAMILIES.items():
        for count in range(4 if family.is_multimodal else 1):
            yield pytest.param(name, count, SYSTEM if count != 2 else "", id=f"{name}-{count}")


@pytest.mark.parametrize(("name", "count", "system_prompt"), cases())
def test_positions_are_those_of_the_conversation_written_turn_by_turn(processor_of, name, count, system_prompt):
    family, processor = FAMILIES[name], processor_of(name)
    encoder = ConversationEncoder(processor, system_prompt, ("+", "-"))
    turns = family.turns("How many digits?", count, STEPS, system_prompt)
    assert encoder.render("How many digits?", count, STEPS) == "".join(turns)
    images = PICTURES[:count]
    inputs, positions = encoder.encode([Conversation(images, "How many digits?", STEPS, "x")])
    ids = inputs["input_ids"][0].tolist()
    for step, position in enumerate(positions[0].tolist()):
        # All that the model has read when it judges the step: up to the header of the assistant's turn.
        text = "".join(turns[: 2 * step + 1]) + family.header
        read = processor(
            text=[text], images=[images] if images else None, add_special_tokens=False, return_tensors="pt"
        )["input_ids"][0].tolist()
        assert ids[: position + 1] == read
        assert processor.tokenizer.convert_ids_to_tokens(ids[position + 1]) == family.answer


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"llava_onevision", "gemma2_text"}))
def test_the_generation_prompt_of_each_turn_ends_where_its_step_is_judged(processor_of, name):
    """As a chat program would ask: history so far, generation prompt. (LLaVA-OneVision's own prompt lacks the space
    that its template writes into answered turns; Gemma 2 refuses the system turn.)
    """
    family, processor = FAMILIES[name], processor_of(name)
    messages = build_messages("How many digits?", int(family.is_multimodal), STEPS, SYSTEM)
    turns = family.turns("How many digits?", int(family.is_multimodal), STEPS, SYSTEM)
    for step in range(len(STEPS)):
        asked = processor.apply_chat_template(messages[: 2 * step + 2], tokenize=False, add_generation_prompt=True)
        assert asked == "".join(turns[: 2 * step + 1]) + family.header


@pytest.mark.parametrize("name", MULTIMODAL)
def test_images_stand_where_the_question_puts_them(processor_of, name):
    encoder = ConversationEncoder(processor_of(name), SYSTEM, ("+", "-"))
    question = "First <image> and second <image>, which is third?"
    text = encoder.render(question, 2, STEPS)
    image = FAMILIES[name].image.strip()
    order = [text.index("First"), text.index(image), text.index("and second"), text.rindex(image), text.index("third")]
    assert order == sorted(order)
    assert text.count(image) == 2
    _, positions = encoder.encode([Conversation(PICTURES[:2], question, STEPS, "x")])
    assert (positions >= 0).sum() == len(STEPS)


@pytest.mark.parametrize("name", FAMILIES)
def test_step_tokens_are_the_texts_of_the_steps(processor_of, name):
    processor = processor_of(name)
    encoder = ConversationEncoder(processor, SYSTEM, ("+", "-"))
    inputs, positions = encoder.encode([Conversation([], "How many?", STEPS, "x")])
    marked = encoder.step_tokens(inputs["input_ids"], positions, [STEPS])[0]
    texts = [processor.tokenizer.decode(inputs["input_ids"][0][tokens]) for tokens in marked]
    assert [text.strip() for text in texts] == STEPS


def test_the_class_token_is_the_one_in_the_assistants_turn(processor_of):
    """Idefics3 writes "Assistant: +": the token there is " +", not "+"; InternLM2 has "▁+" at the start of a text."""
    idefics, llama = processor_of("idefics3"), processor_of("internvl_llama")
    vocabulary = idefics.tokenizer.get_vocab()
    assert ChatLayout(idefics, "", ("+", "-", "=")).class_token_ids == [
        vocabulary["Ġ+"],
        vocabulary["Ġ-"],
        vocabulary["Ġ="],
    ]
    assert idefics.tokenizer("+", add_special_tokens=False)["input_ids"] == [vocabulary["+"]]
    vocabulary = llama.tokenizer.get_vocab()
    assert ChatLayout(llama, "", ("+", "-")).class_token_ids == [vocabulary["+"], vocabulary["-"]]
    assert llama.tokenizer("+", add_special_tokens=False)["input_ids"] != [vocabulary["+"]]


@pytest.mark.parametrize("name", FAMILIES)
def test_class_tokens_must_be_single_tokens(processor_of, name):
    with pytest.raises(ValueError, match=r"class token 'wrong\?!' is \d+ tokens in this tokenizer, \['.*--model.class"):
        ConversationEncoder(processor_of(name), "", ("+", "wrong?!"))
    layout = ChatLayout(processor_of(name), "", ("=", "-", "+"))
    pieces = processor_of(name).tokenizer.convert_ids_to_tokens(layout.class_token_ids)
    assert [piece.lstrip("Ġ") for piece in pieces] == ["=", "-", "+"]


def test_earlier_turns_of_a_thinking_template_stay_as_they_were(processor_of):
    """The template puts an empty thought before the last answer; judged like that, a step's score would depend on
    whether another step follows.
    """
    processor = processor_of("qwen3_text")
    messages = build_messages("Why?", 0, ["a", "b"], "")
    assert "<think>" in processor.apply_chat_template(messages, tokenize=False)
    layout = ChatLayout(processor, "", ("+", "-"))
    texts = [layout.render("Why?", 0, STEPS[:count]) for count in range(1, len(STEPS) + 1)]
    assert all(long.startswith(short) for short, long in pairwise(texts))
    assert "think" not in texts[-1]


def test_a_prompt_for_a_template_without_system_turns(processor_of):
    """Refused (Gemma 2) or silently dropped, it goes into the first user turn."""
    processor = processor_of("gemma2_text")
    layout = ChatLayout(processor, SYSTEM, ("+", "-"))
    assert layout.folds_system_prompt
    assert layout.render("Why?", 0, ["a"]).startswith(f"<bos><start_of_turn>user\n{SYSTEM}\n\n### Question:\nWhy?")
    silent = processor_of("qwen3_vl")
    silent.chat_template = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + str(
        silent.chat_template
    )
    text = ChatLayout(silent, SYSTEM, ("+", "-")).render("Why?", 0, ["a"])
    assert text.startswith(f"<|im_start|>user\n{SYSTEM}\n\n### Question:\nWhy?")


def test_a_text_only_model_reads_no_images(processor_of):
    encoder = ConversationEncoder(processor_of("qwen3_text"), SYSTEM, ("+", "-"))
    with pytest.raises(ValueError, match=r"row 7: the checkpoint .*qwen3_text' reads no images"):
        encoder.encode([Conversation([picture(1)], "How many?", ["a"], "row 7")])


def test_a_template_that_refuses_says_why(processor_of):
    processor = processor_of("gemma3")
    processor.chat_template = "{{ raise_exception('Only tools may speak') }}"
    with pytest.raises(ValueError, match="the chat template refuses the conversation: Only tools may speak"):
        ConversationEncoder(processor, SYSTEM, ("+", "-"))


def test_class_tokens(tiny_processor):
    vocabulary = tiny_processor.tokenizer.vocab
    assert ChatLayout(tiny_processor, "", ("-", "+", "=")).class_token_ids == [
        vocabulary["-"],
        vocabulary["+"],
        vocabulary["="],
    ]


def test_class_tokens_must_be_single_and_different(tiny_processor):
    with pytest.raises(ValueError, match="class token 'Yes!' is 4 tokens in this tokenizer"):
        ChatLayout(tiny_processor, "", ("+", "Yes!"))
    with pytest.raises(ValueError, match=r"class tokens \['\+', '\+'\] must be two or more different texts"):
        ChatLayout(tiny_processor, "", ("+", "+"))
