import pytest

from datamodules.conversation.messages import (
    build_messages,
    parse_conversation_row,
    place_images,
    question_content,
)

IMAGE = {"type": "image"}


def text(value):
    return {"type": "text", "text": value}


def test_messages_of_two_steps():
    assert build_messages("How many?", 2, ["one", "two"], "Judge.") == [
        {"role": "system", "content": [text("Judge.")]},
        {
            "role": "user",
            "content": [IMAGE, IMAGE, text("### Question:\nHow many?\n\n### Solution Process:\none")],
        },
        {"role": "assistant", "content": [text("+")]},
        {"role": "user", "content": [text("two")]},
        {"role": "assistant", "content": [text("+")]},
    ]


def test_no_system_turn():
    assert [message["role"] for message in build_messages("Q", 0, ["one"], "")] == ["user", "assistant"]


def test_image_placeholders_say_where_images_stand():
    messages = build_messages("<image> and <image>?", 2, ["a <image> here"], "")
    assert messages[0]["content"] == [
        text("### Question:\n"),
        IMAGE,
        text(" and "),
        IMAGE,
        text("?\n\n### Solution Process:\na <image> here"),
    ]


def test_neighbouring_images_have_no_empty_text_between_them():
    assert question_content("<image><image>", 2) == [IMAGE, IMAGE]
    assert question_content("x", 0) == [text("x")]


def test_a_placeholder_in_a_question_without_images_is_text():
    assert question_content("What is <image> in HTML?", 0) == [text("What is <image> in HTML?")]


@pytest.mark.parametrize("num_images", [1, 3])
def test_placeholders_and_images_must_match(num_images):
    with pytest.raises(ValueError, match=f"2 <image> placeholders for {num_images} images"):
        question_content("<image> <image>", num_images)


def test_no_steps():
    with pytest.raises(ValueError, match="at least one step"):
        build_messages("Q", 0, [], "")


def row(*turns):
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


FIRST = "### Question:\nHow many?\n\n### Solution Process:\nI see two."


def test_parse_conversation_row():
    parsed = parse_conversation_row(
        row(("system", "Judge."), ("human", f"<image>\n{FIRST}"), ("gpt", "+"), ("human", "So 3."), ("gpt", " - "))
    )
    assert parsed.question == "How many?"
    assert parsed.steps == ["I see two.", "So 3."]
    assert parsed.labels == ["+", "-"]
    assert parsed.system_prompt == "Judge."
    inside = parse_conversation_row(row(("human", FIRST.replace("How", "<image>\nHow")), ("gpt", "+")))
    assert inside.question == "<image>\nHow many?"
    assert inside.system_prompt is None


def test_parsing_undoes_building():
    messages = build_messages("Why <image>?", 1, ["a", "b\n\nc", "d"], "")
    value = "".join("<image>" if part == IMAGE else part["text"] for part in messages[0]["content"])
    turns = [("human", value), ("gpt", "-")]
    for message in messages[2:]:
        turns.append(("human" if message["role"] == "user" else "gpt", message["content"][0]["text"]))
    parsed = parse_conversation_row(row(*turns))
    assert (parsed.question, parsed.steps, parsed.labels) == ("Why <image>?", ["a", "b\n\nc", "d"], ["-", "+", "+"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "field 'conversations' is missing"),
        ({"conversations": []}, "field 'conversations' must be a list that is not empty"),
        ({"conversations": ["hi"]}, r"field 'conversations\[0\]' must be an object, got 'hi'"),
        ({"conversations": [{"from": "human"}]}, r"field 'conversations\[0\].value' is missing"),
        (row(("system", "Judge.")), "must alternate between human and gpt"),
        (row(("human", FIRST)), "must alternate between human and gpt"),
        (row(("human", FIRST), ("gpt", "+"), ("gpt", "+"), ("human", "x")), "must alternate"),
        (row(("human", FIRST), ("gpt", "yes")), "the gpt turn of step 0 must be . or -, got 'yes'"),
        (row(("human", "How many?"), ("gpt", "+")), "the first human turn must read"),
        (row(("human", "Hello " + FIRST), ("gpt", "+")), "the first human turn must read"),
        (row(("human", "<image>" + FIRST.replace("many", "<image>")), ("gpt", "+")), "before the question and inside"),
        (row(("human", FIRST.replace("How many?", "")), ("gpt", "+")), "the question is blank"),
    ],
)
def test_bad_conversation_rows(bad, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_conversation_row(bad, "file:7")
    assert str(error.value).startswith("file:7: ")


@pytest.mark.parametrize(
    ("question", "num_images", "expected"),
    [
        ("Why?", 0, "Why?"),
        ("Why?", 1, "<image>\nWhy?"),
        ("Why?", 2, "Image-1: <image>\nImage-2: <image>\nWhy?"),
        ("Is <image> red?", 1, "Is <image> red?"),
        ("Is <image> red?", 2, "Is <image> red?"),
    ],
)
def test_images_where_the_released_scorer_has_them(question, num_images, expected):
    assert place_images(question, num_images) == expected
