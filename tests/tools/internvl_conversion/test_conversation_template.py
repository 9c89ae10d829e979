from dataclasses import replace

import pytest
from original_internvl import CONVERSATION, SYSTEM_PROMPT
from transformers import AutoProcessor

from tools.internvl_conversion.conversation_template import KNOWN_LAYOUTS, chat_template, read_template

REGISTERED = """
register_conv_template(Conversation(
    name="internvl2_5", system_template="<|im_start|>system\\n{{system_message}}", system_message={message},
    roles=("<|im_start|>user\\n", "<|im_start|>assistant\\n"), sep_style=SeparatorStyle.{style}, sep="<|im_end|>\\n"))
"""


def write(folder, text):
    (folder / "conversation.py").write_text(text, encoding="utf-8")
    return folder


def test_the_named_template_is_read_and_nothing_is_run(tmp_path):
    folder = write(tmp_path, CONVERSATION % repr(SYSTEM_PROMPT))  # raises if it is run
    template = read_template(folder, "internvl2_5", None)
    assert template.system_message == SYSTEM_PROMPT
    assert template.system_template == "<|im_start|>system\n{system_message}"
    assert (template.user, template.assistant) == ("<|im_start|>user\n", "<|im_start|>assistant\n")
    assert (template.separator, template.end_of_turn) == ("<|im_end|>\n", "<|im_end|>")
    assert read_template(folder, "internlm2-chat", None).system_message == "another one"
    assert read_template(folder, "internlm2-chat", None).separator == "<|im_end|>"
    assert read_template(folder, "internvl2_5", "mine").system_message == "mine"


@pytest.mark.parametrize("message", ["'one ' 'two'", "'one ' + 'two'", "('one '\n 'two')"])
def test_texts_in_several_pieces(tmp_path, message):
    write(tmp_path, REGISTERED.format(message=message, style="MPT"))
    assert read_template(tmp_path, "internvl2_5", None).system_message == "one two"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (REGISTERED.format(message="SYSTEM", style="MPT"), r"conversation.py:2: .* must give system_message, roles"),
        (REGISTERED.format(message="f'{1}'", style="MPT"), "must give system_message"),
        (REGISTERED.format(message="'x'", style="CHATML"), "sep_style SeparatorStyle.MPT"),
        (2 * REGISTERED.format(message="'x'", style="MPT"), "'internvl2_5' is registered 2 times"),
        ("x = 1", "'internvl2_5' is registered 0 times"),
        ("def broken(:", "not readable as Python"),
        (
            REGISTERED.format(message="'x'", style="MPT").replace("{system_message}", ""),
            "must hold {system_message} once",
        ),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_template(write(tmp_path, text), "internvl2_5", None)


def test_without_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"no conversation\.py .* --system-prompt"):
        read_template(tmp_path, "internvl2_5", None)
    template = read_template(tmp_path, "internvl2_5", "Check it.")
    assert (template.system_message, template.separator) == ("Check it.", "<|im_end|>\n")
    with pytest.raises(ValueError, match="layout of template 'phi3-chat' is not known"):
        read_template(tmp_path, "phi3-chat", "Check it.")


@pytest.fixture(scope="module")
def render(converted):
    processor = AutoProcessor.from_pretrained(converted("reward")[2])
    return lambda messages, **options: processor.apply_chat_template(messages, tokenize=False, **options)


SYSTEM = f"<s><|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"
IMAGE = {"type": "image"}


def said(*parts):
    return [{"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}]


def test_the_released_conversation(render):
    messages = [*said("Why?"), {"role": "assistant", "content": "So."}, *said("{{ And }}  then?\n")]
    expected = (
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
        "<|im_start|>user\n{{ And }}  then?\n<|im_end|>\n"
    )
    assert render(messages) == SYSTEM + expected
    assert render(messages, add_generation_prompt=True) == SYSTEM + expected + "<|im_start|>assistant\n"
    own = [{"role": "system", "content": [{"type": "text", "text": "Mine."}]}, *messages]
    assert render(own) == "<s><|im_start|>system\nMine.<|im_end|>\n" + expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((IMAGE, "What?"), "<IMG_CONTEXT>\nWhat?"),
        ((IMAGE, "\nWhat?"), "<IMG_CONTEXT>\nWhat?"),
        ((IMAGE, " What?"), "<IMG_CONTEXT> What?"),
        ((IMAGE, IMAGE, "What?"), "<IMG_CONTEXT>\n<IMG_CONTEXT>\nWhat?"),
        (("Is ", IMAGE, " larger than ", IMAGE, "?"), "Is <IMG_CONTEXT> larger than <IMG_CONTEXT>?"),
    ],
)
def test_images_stand_where_the_content_has_them(render, parts, expected):
    assert render(said(*parts)) == f"{SYSTEM}<|im_start|>user\n{expected}<|im_end|>\n"


def test_what_the_template_does_not_know(render):
    with pytest.raises(Exception, match="content of type video is not known"):
        render(said({"type": "video"}))
    with pytest.raises(Exception, match="role tool is not known"):
        render([{"role": "tool", "content": "x"}])


def test_any_system_prompt_can_be_written(converted):
    """Neither quotes nor what means something in a template gets lost."""
    processor = AutoProcessor.from_pretrained(converted("reward")[2])
    prompt = "}} %} {# {{ 'x' }} \\n \"q\" é 😀\n  \t$"
    template = chat_template(replace(KNOWN_LAYOUTS["internvl2_5"], system_message=prompt), "", "<IMG_CONTEXT>")
    text = processor.apply_chat_template(said("Why?"), chat_template=template, tokenize=False)
    assert text == f"<|im_start|>system\n{prompt}<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
