import json

import pytest
from PIL import Image

from datamodules.conversation.instructions import INSTRUCTIONS, POLICY_INSTRUCTION, without_requests
from datamodules.policy.prompt_sources import PromptSource, read_sources

SHORT = "Answer the question using a single word or phrase."


@pytest.fixture
def mmpr(tmp_path):
    """A folder of three files as MMPR has them: ids are numbers, from 0 in each."""
    rows = {
        "charts": [{"id": n, "question": f"<image>\nHow many bars {n}? {SHORT}", "answer": "3"} for n in range(6)],
        "geo_zh_mix": [{"id": 0, "question": "<image>\n角是多少度？", "answer": "30"}],
        "deep/more": [{"question": "Which? Answer yes or no.", "answer": "yes", "source": "other"}],
    }
    for name, of_file in rows.items():
        path = tmp_path / "mmpr" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = [{} if "<image>" not in row["question"] else {"image": "a.png"} for row in of_file]
        path.write_text("".join(json.dumps(row | more) + "\n" for row, more in zip(of_file, pictures, strict=True)))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "pictures" / "a.png")
    return tmp_path


def test_a_folder_of_files(mmpr):
    prompts = read_sources([PromptSource(str(mmpr / "mmpr"))], mmpr / "pictures")
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    assert len(by_id) == 8
    assert {"charts/0", "charts/5", "geo_zh_mix/0"} <= set(by_id)
    assert [(prompt.source, prompt.question[:8]) for prompt in prompts if "more" in prompt.prompt_id] == [
        ("other", "Which? A")
    ]
    assert by_id["charts/2"].source == "charts"
    # The row's own question is kept; the policy is asked without the request for one word.
    assert by_id["charts/2"].question.endswith(SHORT)
    assert by_id["charts/2"].policy_text == f"<image>\nHow many bars 2?\n{POLICY_INSTRUCTION}"
    assert by_id["charts/2"].load_images()[0].size == (32, 32)


def test_settings_of_sources(mmpr):
    root = str(mmpr / "pictures")
    sources = {
        "bars": PromptSource(str(mmpr / "mmpr/charts.jsonl"), root, limit=3, max_tiles=12),
        "angles": PromptSource([str(mmpr / "mmpr/geo*.jsonl")], root, "geometry_zh_", "boxed"),
        "rest": PromptSource(str(mmpr / "mmpr/deep"), instruction_template="final_answer"),
    }
    prompts = read_sources(sources, instruction="Think.", max_tiles=6)
    assert [prompt.prompt_id for prompt in prompts[:4]] == ["bars/0", "bars/2", "bars/4", "geometry_zh_/0"]
    assert [prompt.max_tiles for prompt in prompts] == [12, 12, 12, 6, 6]
    assert [prompt.source for prompt in prompts] == ["bars"] * 3 + ["geometry_zh_", "other"]
    assert prompts[0].text == "<image>\nHow many bars 0?\nThink."
    assert prompts[3].text == "<image>\n" + INSTRUCTIONS["boxed_zh"].replace("{question}", "角是多少度？")
    assert 'use the format "Final answer: .."' in prompts[4].text


def test_ids_do_not_depend_on_the_other_files(mmpr):
    alone = read_sources([PromptSource(str(mmpr / "mmpr/charts.jsonl"))], mmpr / "pictures")
    together = read_sources([PromptSource(str(mmpr / "mmpr"))], mmpr / "pictures")
    assert [prompt.prompt_id for prompt in alone] == [p.prompt_id for p in together if p.source == "charts"]
    assert [prompt.digest for prompt in alone] == [p.digest for p in together if p.source == "charts"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([{"annotations": "mmpr/charts.jsonl"}] * 2, "'charts/0' is also at .*give the sources different names"),
        ([{"annotations": "mmpr/none"}], "none is neither a JSONL"),
        ([{"annotations": "mmpr/charts.jsonl", "instruction_template": "rhyme"}], "must be one of ours, .*'rhyme'"),
        ([{"annotations": "mmpr", "limit": 0}], "limit must be at least 1"),
    ],
)
def test_what_is_wrong_is_named(mmpr, sources, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_sources([{**s, "annotations": str(mmpr / s["annotations"])} for s in sources], mmpr / "pictures")


@pytest.mark.parametrize(
    ("asked", "bare"),
    [
        (f"Why? {SHORT}", "Why?"),
        ("<image>\n多少？请回答是或否。", "<image>\n多少？"),
        ("Answer yes or no.", "Answer yes or no."),  # nothing would be left
        (INSTRUCTIONS["ours_zh"].replace("{question}", "多少？"), "多少？"),
    ],
)
def test_questions_without_requests(asked, bare):
    assert without_requests(asked) == bare
