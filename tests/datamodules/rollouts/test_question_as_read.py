"""What a reward model reads above candidates: as the policy was asked, with the policy's pictures and tiles."""

import pytest
from PIL import Image

from datamodules.benchmarks import BenchmarkQuestion, make_benchmark, vlmevalkit_prompts
from datamodules.benchmarks.question import SourceRow
from datamodules.conversation.reading_rules import ReadingRules
from datamodules.rollouts.question_as_read import question_as_read, with_prompts
from datamodules.rollouts.records import Rollout

AS_ASKED = ReadingRules(question_text="as_asked")
FIRST, SECOND = (Image.new("RGB", (30, 20), (value, 0, 0)) for value in (1, 2))


def mmmu():
    """Its text names the second picture alone."""
    row = SourceRow("Is <image 2> red?", "", {"A": "yes", "B": "no"}, [FIRST, SECOND], is_table=True)
    text = "Is <image> red?\nA. yes\nB. no"
    return BenchmarkQuestion("MMMU", "7", text, [SECOND], ("A",), dict(row.options), row=row)


def rollout(prompt=None):
    return Rollout("MMMU", "7", 0, "A", "A", True, "policy", None, None, None, None, prompt=prompt)


def test_without_a_prompt_and_bare_the_question_alone():
    for rules, prompt in ((AS_ASKED, None), (ReadingRules(), "Is <image> red?\nThink.")):
        read = question_as_read(mmmu(), [rollout(prompt)], rules)
        assert (read.texts, read.max_tiles) == ([mmmu().question], None)
        assert read.opened("ours") == [SECOND]


def test_as_vlmevalkit_asks_with_its_pictures_and_tiles():
    (asked,) = with_prompts([rollout()], make_benchmark("MMMU"), [mmmu()], "vlmevalkit")
    assert asked.prompt == vlmevalkit_prompts.ask(mmmu()).text
    assert asked.prompt.startswith("Image-1: <image>\nImage-2: <image>\n")
    read = question_as_read(mmmu(), [asked, asked], AS_ASKED)
    assert read.texts == [asked.prompt] * 2
    assert read.max_tiles == 12
    assert [image.size for image in read.opened("ours")] == [(60, 40), (30, 20)]


def test_our_own_prompts():
    (asked,) = with_prompts([rollout()], make_benchmark("MMMU"), [mmmu()], "ours")
    assert question_as_read(mmmu(), [asked], AS_ASKED).texts == [make_benchmark("MMMU").policy_prompt(mmmu())]
    (kept,) = with_prompts([rollout("mine")], make_benchmark("MMMU"), [mmmu()], "ours")
    assert kept.prompt == "mine"


def test_a_prompt_with_other_pictures_is_named():
    with pytest.raises(ValueError, match="field 'prompt' has 2 <image> placeholders, but the question has 1 images"):
        question_as_read(mmmu(), [rollout("<image> or <image>?")], AS_ASKED)
