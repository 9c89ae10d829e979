import hashlib
import re

import pytest

from datamodules.conversation.instructions import POLICY_INSTRUCTION
from datamodules.policy.prompt_rows import grade_by_answer, read_prompts, without_special_tokens
from datamodules.storage.images import ImageError


def test_rows(prompt_file, prompt_rows):
    path = prompt_file([*prompt_rows, "", {"question": "q", "answer": "1", "image": "", "id": None, "response": None}])
    prompts = read_prompts(path)
    first, second, third, last = (prompt.prompt_id for prompt in prompts)
    assert (second, third) == ("x", "5")
    assert all(re.fullmatch("annotations-[0-9a-f]{16}", name) for name in (first, last))
    assert [prompt.where for prompt in prompts] == [f"{path}:{line}" for line in (1, 2, 3, 5)]
    assert [prompt.source for prompt in prompts] == ["annotations", "s", "annotations", "annotations"]
    names = [(), ("pictures/a.png",), ("pictures/b.png", "pictures/c.png"), ()]
    assert [prompt.image_names for prompt in prompts] == names
    assert [prompt.response for prompt in prompts] == [*(row["response"] for row in prompt_rows), None]
    assert [len(prompt.load_images()) for prompt in prompts] == [0, 1, 2, 0]
    assert prompts[1].load_images()[0].getpixel((0, 0)) == (200, 0, 0)
    assert prompts[1].grade("It is 3 + 4.\n\nAnswer: \\boxed{7.0}").is_correct
    assert not prompts[1].grade("Answer: \\boxed{8}").is_correct


def test_another_image_root(prompt_file, tmp_path):
    path = prompt_file([{"image": "a.png", "question": "q", "answer": "1"}])
    (prompt,) = read_prompts(path, tmp_path / "pictures")
    assert prompt.load_images()[0].size == (24, 24)


GOOD = {"question": "q", "answer": "1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, "field 'question' is missing; the row has"),
        ({"question": "q"}, "field 'answer' is missing; the row has"),
        ({**GOOD, "question": 5}, "field 'question' must be a string, got 5"),
        ({**GOOD, "question": " \n"}, "field 'question' must be a string that is not blank"),
        ({**GOOD, "answer": None}, "field 'answer' must be a string, got None"),
        ({**GOOD, "answer": 2}, "field 'answer' must be a string, got 2"),
        ({**GOOD, "image": 7}, "field 'image' must be a path, a list of paths, or absent, got 7"),
        ({**GOOD, "image": ["a.png", 7]}, "field 'image' must be a path"),
        ({**GOOD, "image": ["a.png", ""]}, "field 'image' must be a path"),
        ({**GOOD, "response": ["a"]}, r"field 'response' must be a string, got \['a'\]"),
        ({**GOOD, "response": ""}, "field 'response' must be a string that is not blank"),
        ({**GOOD, "question": "<image>", "image": ["a", "b"]}, "field 'question' has 1 <image> placeholders for 2"),
        ({**GOOD, "id": "x"}, "field 'id' repeats 'x'; ids key the random numbers and must be unique"),
        ("{broken", "not valid JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
    ],
)
def test_a_bad_row_is_named(prompt_file, row, message):
    path = prompt_file([{**GOOD, "id": "x"}, "", row])
    with pytest.raises(ValueError, match=f"^{path}:3: {message}"):
        read_prompts(path, on_bad_row="error")


@pytest.mark.parametrize("name", ["missing.png", "text.png"])
def test_a_bad_picture_is_named(prompt_file, name):
    path = prompt_file([GOOD, {**GOOD, "image": f"pictures/{name}"}])
    with pytest.raises(ImageError, match=f"^{path}:2: field 'image': .*{name}.* cannot be opened as an image"):
        read_prompts(path, on_bad_row="error")


def test_a_picture_that_is_cut_short(prompt_file):
    """Its header is sound, so that only decoding tells."""
    path = prompt_file([GOOD, {**GOOD, "image": "pictures/broken.png"}])
    prompts = read_prompts(path, on_bad_row="error")
    with pytest.raises(ImageError, match=f"^{path}:2: field 'image': .*broken.png.* cannot be opened as an image"):
        prompts[1].load_images()


def test_bad_rows_are_left_out_counted_and_named(prompt_file, caplog):
    path = prompt_file(
        [GOOD, "{broken", {**GOOD, "image": "pictures/text.png"}, {"question": "q"}, {**GOOD, "id": "y"}]
    )
    assert [prompt.where for prompt in read_prompts(path)] == [f"{path}:1", f"{path}:5"]
    (notice,) = caplog.messages
    assert notice.startswith(f"{path}: 3 rows cannot be used and are left out: {path}:2: not valid JSON")
    assert f"{path}:3: field 'image'" in notice
    assert f"{path}:4: field 'answer' is missing" in notice


@pytest.mark.parametrize("content", ["", "\n\n", "{broken\n"])
def test_a_file_without_prompts(tmp_path, content):
    (tmp_path / "none.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"none\.jsonl: holds no prompts"):
        read_prompts(tmp_path / "none.jsonl")


def test_a_path_that_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prompts: .* is a folder; give a JSONL file"):
        read_prompts(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"prompts: .*a\.jsonl does not exist; give a JSONL file"):
        read_prompts(tmp_path / "a.jsonl")


def test_rows_without_an_id_are_named_after_their_content(prompt_file):
    """Lines added or removed elsewhere change no name, and a change of anything that matters does."""
    row = {"question": "q", "answer": "1", "image": ["pictures/a.png"], "source": "s"}
    others = [
        row | {"question": "q?"},
        row | {"answer": "2"},
        row | {"source": "t"},
        row | {"image": ["pictures/b.png"]},
        row | {"image": ["pictures/a.png", "pictures/a.png"]},
        row | {"response": "r"},
    ]

    def names(rows):
        return [prompt.prompt_id for prompt in read_prompts(prompt_file(rows))]

    whole = names([row, *others])
    assert len(set(whole)) == len(whole) == 7
    assert names([*others[3:], row]) == [*whole[4:], whole[0]]
    # The same row again gets a number; what is deleted is then the last of them.
    assert names([row, others[0], row, row]) == [whole[0], whole[1], f"{whole[0]}-2", f"{whole[0]}-3"]
    # As it is on every machine: blake2b of lengths and texts, computed by hand.
    texts = ["q", "1", "s", "", "pictures/a.png"]
    digest = hashlib.blake2b("".join(f"{len(text)}:{text}" for text in texts).encode(), digest_size=8).hexdigest()
    assert whole[0] == f"annotations-{digest}"


def test_the_content_of_a_prompt(prompt_file):
    """What an answer and its grade depend on is in the digest, the id and the line are not."""
    row = {"question": "q", "answer": "1", "id": "a"}
    first, *others = (
        read_prompts(prompt_file(rows), **options)[-1].digest
        for rows, options in [
            ([row], {}),
            ([row | {"id": "b"}, row], {}),
            ([row | {"question": "q?"}], {}),
            ([row | {"answer": "2"}], {}),
            ([row | {"image": "pictures/a.png"}], {}),
            ([row], {"instruction": "Be quick."}),
        ]
    )
    assert others[0] == first
    assert len({first, *others}) == 5


def test_special_tokens(prompt_file, caplog):
    rows = [
        GOOD,
        {**GOOD, "question": "q <|end|> q"},
        {**GOOD, "question": "See <image>.", "image": "pictures/a.png"},
        {**GOOD, "response": "So <|user|>"},
    ]
    prompts = read_prompts(prompt_file(rows))
    tokens = ["<|end|>", "<|user|>", "<image>"]
    assert without_special_tokens(prompts, tokens, "skip") == [prompts[0], prompts[2]]
    (notice,) = caplog.messages
    assert notice.startswith("prompts: 2 rows cannot be used and are left out: ")
    assert f"{prompts[1].where}: field 'question' holds '<|end|>', a special token of the tokenizer" in notice
    assert f"{prompts[3].where}: field 'response' holds '<|user|>'" in notice
    with pytest.raises(ValueError, match=r":2: field 'question' holds '<\|end\|>'"):
        without_special_tokens(prompts, tokens, "error")
    with pytest.raises(ValueError, match=r"no prompt can be used: .*:2: field 'question'"):
        without_special_tokens(prompts[1:2], tokens, "skip")
    assert without_special_tokens(prompts, [], "error") == prompts


def test_grades():
    grade = grade_by_answer("3/4")
    assert grade("So \\boxed{0.75}").is_correct
    assert grade("So \\boxed{\\frac{3}{4}}").is_correct
    wrong = grade("So \\boxed{0.7}")
    assert (wrong.is_correct, wrong.extracted_answer, wrong.status) == (False, "0.7", "boxed")
    empty = grade("")
    assert (empty.is_correct, empty.extracted_answer, empty.status) == (False, None, "none")


def test_instruction_of_prompt_rows(prompt_file, prompt_rows):
    path = prompt_file(prompt_rows)
    assert read_prompts(path)[0].policy_text == f"Why?\n{POLICY_INSTRUCTION}"
    assert read_prompts(path, instruction="Box it.")[0].policy_text == "Why?\nBox it."
    assert read_prompts(path, instruction="")[0].policy_text == read_prompts(path)[0].question == "Why?"
