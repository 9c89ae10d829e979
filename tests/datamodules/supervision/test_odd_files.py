"""Odd but possible files, as people report them of other readers: what is read, and what is left out by itself."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from datamodules.batching.collate import StepCollator
from datamodules.batching.lengths import TokenCounter
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.policy.prompt_rows import read_prompts
from datamodules.rollouts.records import read_rollouts
from datamodules.supervision.rows import read_rows

GOOD = json.dumps({"question": "q", "steps_with_score": [{"step": "a", "score": 0.5}]})
NAME = "naïve 数据 #1.jsonl"


def bad(old, new):
    """A good line, and one with a value replaced."""
    return f"{GOOD}\n{GOOD.replace(old, new)}\n".encode()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + f"{GOOD}\n{GOOD}\n".encode(),  # a byte-order mark
        f"{GOOD}\r\n{GOOD}\r\n".encode(),
        f"\r\n{GOOD}\r\n\r\n \t\r\n{GOOD}".encode(),
        f"{GOOD}\n{GOOD}".replace('"q"', '"a\\u0000\u2028b\u0085c\U0001f600"').encode(),  # separators are no line ends
    ],
)
def test_files_that_are_read(tmp_path, content, caplog):
    (tmp_path / NAME).write_bytes(content)
    assert len(read_rows([tmp_path], cache_dir=tmp_path / "cache")) == 2
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bad("0.5", "NaN"), r"score' must be a finite number in [0, 1], got nan"),
        (bad("0.5", "-Infinity"), r"score' must be a finite number in [0, 1], got -inf"),
        (bad("0.5", "1e999"), r"score' must be a finite number in [0, 1], got inf"),
        (bad("0.5", "1" * 5000), "not valid JSON: Exceeds the limit"),
        (bad("0.5", "1" * 4000), "score' must be a finite number"),
        (bad('"a"', '"\\ud83d"'), "step' must be valid Unicode"),
        (bad('"q"', '"q", "source": "\\ud83d"'), "'source' must be valid Unicode"),
        (bad('"q"', "[" * 100_000 + "]" * 100_000), "not valid JSON: maximum recursion depth"),
        (f"{GOOD}\n".encode() + GOOD.replace('"a"', '"é"').encode("latin-1"), "not valid JSON: 'utf-8' codec"),
        (f"{GOOD}\n{GOOD[:-9]}".encode(), "cut short while it was written?"),
        (f"{GOOD}\n\0\0\0\n".encode(), "not valid JSON"),
    ],
)
def test_lines_that_take_no_other_with_them(tmp_path, content, message, caplog):
    (tmp_path / NAME).write_bytes(content)
    assert len(read_rows([tmp_path], cache_dir=tmp_path / "cache")) == 1
    assert "1 of 2 rows are left out" in caplog.text
    assert f"{tmp_path / NAME}:2: " in caplog.text
    assert message in caplog.text


PROMPT = json.dumps({"question": "q", "answer": "1"})
ROLLOUT = json.dumps(
    {
        **{"benchmark": "MMMU", "question_id": "1", "sample_index": 0, "response": "q", "policy": "p"},
        **{"extracted_answer": None, "is_correct": True, "temperature": None, "top_p": None, "max_new_tokens": None},
        "seed": None,
    }
)


@pytest.mark.parametrize(("read", "good"), [(read_prompts, PROMPT), (read_rollouts, ROLLOUT)])
@pytest.mark.parametrize(
    ("whole", "odd"),
    [
        ("\ufeff{}\r\n{}\r\n", "{}"),
        ("{}\n{}\n", '{{"seed": NaN}}'),
        ("{}\n{}\n", '{{"question": Infinity, "seed": -Infinity}}'),
        ("{}\n{}\n", "1" * 5000),
        ("{}\n{}\n", "[" * 100_000),
        ("{}\n{}\n", "surrogate"),
    ],
)
def test_prompts_and_rollouts_are_read_alike(tmp_path, read, good, whole, odd, caplog):
    """A line that nobody can read takes no other one with it, and is named."""
    odd = good if odd == "{}" else good.replace('"q"', '"\\ud83d"') if odd == "surrogate" else odd.format()
    (tmp_path / NAME).write_bytes(whole.format(good, odd).encode())
    assert len(read(tmp_path / NAME)) == 1 + (odd == good)
    assert (f"{tmp_path / NAME}:2: " in caplog.text) == (odd != good)


def encoded(image, image_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


PICTURES = {
    "animation.gif": encoded(
        Image.new("P", (20, 20), 1), "GIF", save_all=True, append_images=[Image.new("P", (20, 20))]
    ),
    "cmyk.jpg": encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"),
    "palette.png": encoded(Image.new("RGB", (20, 20), (10, 20, 30)).convert("P")),
    "16 bits.png": encoded(Image.fromarray(np.full((20, 20), 40_000, np.uint16))),
    "very wide.png": encoded(Image.new("RGB", (20_000, 1))),
    "very high.png": encoded(Image.new("L", (1, 20_000))),
    "one pixel.png": encoded(Image.new("RGBA", (1, 1))),
    "überraschung 图片.png": encoded(Image.new("RGB", (20, 20))),
    "a name with a newline\n and '::#1+2.png": encoded(Image.new("RGB", (20, 20))),
}


@pytest.fixture
def annotations(tmp_path, write_lines):
    row = json.loads(GOOD)
    return write_lines(tmp_path / "a.jsonl", [row | {"image": name} for name in PICTURES])


FAMILIES = ("internvl_qwen2", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "gemma3", "idefics3")


@pytest.mark.parametrize(("family", "zipped"), [*((family, False) for family in FAMILIES), ("qwen2_5_vl", True)])
def test_odd_pictures_in_a_batch(tmp_path, annotations, family_checkpoint, family, zipped):
    """They are read, or named as refused by this model; what is counted before is what the batch has."""
    from transformers import AutoProcessor

    if zipped:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for name, content in PICTURES.items():
                archive.writestr(name, content)
    else:
        for name, content in PICTURES.items():
            (tmp_path / name).write_bytes(content)
    table = read_rows([annotations], cache_dir=tmp_path / "cache")
    assert len(table) == len(PICTURES)
    encoder = ConversationEncoder(AutoProcessor.from_pretrained(family_checkpoint(family)), "", ("+", "-"))
    lengths, problems = TokenCounter(encoder, 12)(list(table))
    refused = {"very wide.png", "very high.png"} if family.startswith("qwen") else set()
    assert {name for name, problem in zip(PICTURES, problems, strict=True) if problem} == refused
    assert all("cannot be used with this model" in problem for problem in problems if problem)
    batch = StepCollator(encoder, on_bad_row="skip")(list(table))
    assert len(batch.left_out) == len(refused)
    used = [name not in refused for name in PICTURES]
    found = batch.lengths.tolist()
    assert [n for n, is_used in zip(found, used, strict=True) if is_used] == [n for n in lengths if n]


def test_a_zip_slip_is_refused(tmp_path, annotations):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("../../outside.png", PICTURES["palette.png"])
    with pytest.raises(ValueError, match="lies outside of the archive's folder"):
        read_rows([annotations], cache_dir=tmp_path / "cache")
