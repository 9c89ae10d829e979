"""Model cards made of texts that would break them."""

import re
from dataclasses import replace

import pytest
import yaml

from datamodules.conversation.chat_layout import ChatLayout
from lightning_modules.export.model_card import CardFacts, escaped, model_card
from lightning_modules.objectives.step_loss import LossOptions
from lightning_modules.protocol import Protocol

EVIL = "a|b\n---\n```\n# Title <script>alert(1)</script> [x](http://y) `c` *d* &amp;"


@pytest.fixture
def facts(tiny_processor):
    protocol = Protocol("value", 0.25, EVIL, 12, "min", step_threshold=0.625, step_threshold_chosen_on=EVIL)
    record = {
        "sources": {EVIL: 1200, "geometry": 34},
        "epochs": 1,
        "steps": 77,
        "metrics": {"best_of_n/overall": 0.4125, f"process_bench_sources/{EVIL}": 0.5},
    }
    layout = ChatLayout(tiny_processor, "You check .", ("+", "-"))
    return CardFacts(protocol, LossOptions(), "org/base-8B", record, layout, [11, 12], True, True)


def test_what_it_says(facts):
    card = model_card(facts)
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model"] == "org/base-8B"
    assert head["license"] == "other"
    assert "objective-value" in head["tags"]
    for text in (
        "its Monte Carlo score exceeds 0.25 (`value`)",
        "Loss options: none.",
        "`min` of the step scores",
        "from a score of 0.625 on",
        "77 optimizer steps, 1 whole epochs",
        "1,234",
        "0.4125",
        "At most 12 steps a response",
    ):
        assert text in card
    outcome = model_card(replace(facts, protocol=Protocol("outcome", 0.0, "", 12, "mean")))
    assert "# Outcome reward model" in outcome
    assert "System prompt" not in outcome
    soft = model_card(
        replace(facts, protocol=Protocol("soft", 0.0, "", 12, "mean"), loss=LossOptions(True, [1.0, 9.0]))
    )
    assert "Loss options: `early_stop: True`, `class_weights: [1.0, 9.0]`." in soft
    unknown = model_card(replace(facts, record=None))
    assert "What it was trained on was not recorded." in unknown
    assert "No evaluation was logged" in unknown


def test_texts_from_outside_stay_texts(facts):
    lines = model_card(facts).splitlines()
    # Outside of the blocks of code nothing of the text is markup.
    outside, fence = [], None
    for line in lines:
        found = re.match(r"(`{3,})\w*$", line)
        if fence is None and found:
            fence = found[1]
        elif fence is not None and line == fence:
            fence = None
        elif fence is None:
            outside.append(line)
    assert fence is None
    text = "\n".join(outside)
    assert "<script>" not in text
    assert "[x](" not in text
    assert text.count("---\n") == 2
    assert not any(line.startswith("# Title") for line in outside)
    # The prompt is shown to the letter in a block that it cannot end.
    assert f"````text\n{EVIL}\n````" in "\n".join(lines)
    tables = [line for line in outside if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", "plain text"),
        ("a_b*c", r"a\_b\*c"),
        ("a\nb", "a b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("a|b", r"a\|b"),
    ],
)
def test_escaped(text, expected):
    assert escaped(text) == expected
