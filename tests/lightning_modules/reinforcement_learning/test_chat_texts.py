import pytest

from lightning_modules.reinforcement_learning.chat_texts import completion_text, pictures_in, question_of

TEXT = {"type": "text", "text": "How many?"}
IMAGE = {"type": "image", "image": "a.png", "text": None}  # as `datasets` fills parts up


def user(*parts):
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize(
    ("prompt", "question", "pictures"),
    [
        ("How many?", "How many?", []),
        ([{"role": "user", "content": "How many?"}], "How many?", []),
        ([{"role": "system", "content": "Think."}, {"role": "user", "content": "How many?"}], "How many?", []),
        ([user(IMAGE, TEXT)], "How many?", ["a.png"]),
        ([user(IMAGE, IMAGE, TEXT)], "How many?", ["a.png", "a.png"]),
        ([user(TEXT, IMAGE)], "How many?<image>", ["a.png"]),
        ([user(IMAGE, TEXT, IMAGE, TEXT)], "<image>How many?<image>How many?", ["a.png", "a.png"]),
        ([user({"type": "image"}, TEXT)], "How many?", [None]),
    ],
)
def test_question_and_pictures(prompt, question, pictures):
    assert question_of(prompt, "row 0", "question_column") == question
    assert pictures_in(prompt, "row 0") == pictures


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            [user(TEXT), {"role": "assistant", "content": "2"}, user(TEXT)],
            r"row 3: .*\[user, assistant, user\].*column",
        ),
        ([{"role": "system", "content": "Think."}], r"row 3: .*turns \[\]"),
        ([{"content": "How many?"}], "row 3: must be a text, or messages"),
        ([user({"type": "video", "video": "a.mp4"})], "row 3: a part of a message .* got 'video'"),
    ],
)
def test_prompts_without_a_question(prompt, message):
    with pytest.raises(ValueError, match=message):
        question_of(prompt, "row 3", "question_column")


def test_completions():
    assert completion_text("So 2", "row 0") == "So 2"
    assert completion_text([{"role": "assistant", "content": "So 2"}], "row 0") == "So 2"
    parts = [{"type": "text", "text": "So"}, {"type": "text", "text": " 2"}]
    turns = [
        {"role": "assistant", "content": parts},
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "So 7"},
    ]
    assert completion_text(turns, "row 0") == "So 2\n\nSo 7"
    assert completion_text([{"role": "assistant", "content": None}], "row 0") == ""
    with pytest.raises(ValueError, match="row 0: must be a text, or messages"):
        completion_text([7], "row 0")
