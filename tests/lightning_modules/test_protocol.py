"""Settings of a reward model, from a file, from arguments, by default."""

import json
from dataclasses import replace

import pytest

from datamodules.conversation.messages import DEFAULT_SYSTEM_PROMPT
from lightning_modules.protocol import PROTOCOL_FILE, Protocol, resolve_protocol, save_protocol
from lightning_modules.scoring.calibration import Calibration


def test_protocol_without_a_file(tiny_checkpoint):
    expected = Protocol("value", 0.0, DEFAULT_SYSTEM_PROMPT, 12, "mean", class_tokens=["+", "-"])
    assert Protocol() == expected
    assert resolve_protocol(str(tiny_checkpoint), {}) == expected
    assert resolve_protocol("organisation/name-on-the-hub", {"threshold": None}) == expected
    assert resolve_protocol(str(tiny_checkpoint), {"system_prompt": ""}).system_prompt == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"objective": "value"', "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        (
            '{"objektive": "value"}',
            r"must hold an object with keys \['aggregation', .*'class_tokens', .*'max_steps', 'objective'",
        ),
    ],
)
def test_a_broken_protocol_file(tmp_path, content, message):
    (tmp_path / PROTOCOL_FILE).write_text(content)
    with pytest.raises(ValueError, match=f"{PROTOCOL_FILE}: {message}"):
        resolve_protocol(str(tmp_path), {})


def test_class_tokens_and_scores_of_each_objective():
    def protocol(objective, **options):
        return Protocol(objective, 0.0, "", 12, "mean", **options)

    for objective in ("value", "outcome", "soft", "regression"):
        assert protocol(objective).class_tokens == ["+", "-"]
        assert protocol(objective).score_range == (0.0, 1.0)
    assert protocol("advantage").class_tokens == ["+", "=", "-"]
    assert protocol("advantage").score_range == (-1.0, 1.0)
    assert protocol("advantage").class_values == (1.0, 0.0, -1.0)
    assert protocol("value", class_tokens=["Yes", "No"]).class_tokens == ["Yes", "No"]
    assert protocol("advantage", step_threshold=-0.5).step_threshold == -0.5
    with pytest.raises(ValueError, match=r"step_threshold must be in \[0, 1\], got -0.5"):
        protocol("value", step_threshold=-0.5)
    with pytest.raises(ValueError, match=r"objective 'advantage' needs 3 class_tokens, best first, got \['\+', '-'\]"):
        protocol("advantage", class_tokens=["+", "-"])
    with pytest.raises(ValueError, match=r"aggregation 'product' needs scores in .* 'advantage' may be negative"):
        Protocol("advantage", 0.0, "", 12, "product")


def test_class_tokens_follow_the_kind_of_labels(tmp_path):
    stored = {"objective": "value", "class_tokens": ["Yes", "No"], "step_threshold": 0.75}
    (tmp_path / PROTOCOL_FILE).write_text(json.dumps(stored))
    assert resolve_protocol(str(tmp_path), {"class_tokens": ["Yes", "No"]}).step_threshold == 0.75
    same = resolve_protocol(str(tmp_path), {"objective": "soft"})
    assert (same.class_tokens, same.step_threshold) == (["Yes", "No"], None)
    stored = {"objective": "advantage", "class_tokens": ["Yes", "No"]}
    with pytest.raises(ValueError, match="objective 'advantage' needs 3 class_tokens"):
        resolve_protocol(str(tmp_path), stored)
    other = resolve_protocol(str(tmp_path), {"objective": "advantage"})
    assert other.class_tokens == ["+", "=", "-"]
    given = resolve_protocol(str(tmp_path), {"objective": "advantage", "class_tokens": ["A", "B", "C"]})
    assert given.class_tokens == ["A", "B", "C"]
    (tmp_path / PROTOCOL_FILE).write_text(json.dumps({"objective": "value", "step_threshold": 0.75}))
    assert resolve_protocol(str(tmp_path), {"class_tokens": ["+", "-"]}).step_threshold == 0.75


def test_images(tmp_path):
    """Where images stand and what resizes them comes with the checkpoint; the second is no other protocol."""
    stored = Protocol(
        "value", 0.0, "x", 12, "mean", 0.85, "VisualProcessBench", image_layout="in_question", image_backend="pil"
    )
    save_protocol(stored, tmp_path)
    assert resolve_protocol(str(tmp_path), {"image_backend": None}) == stored
    faster = resolve_protocol(str(tmp_path), {"image_backend": "torchvision"})
    assert (faster.image_backend, faster.step_threshold) == ("torchvision", 0.85)
    for changes in ({"image_layout": "last"}, {"image_backend": "opencv"}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            replace(stored, **changes)


def test_a_calibration_is_stored_and_dropped_with_the_scores_it_belongs_to(tmp_path):
    stored = Protocol(calibration=Calibration("isotonic", "v.jsonl", scores=[0.25, 0.75], values=[0.0, 0.5]))
    save_protocol(stored, tmp_path)
    assert json.loads((tmp_path / PROTOCOL_FILE).read_text())["calibration"]["values"] == [0.0, 0.5]
    assert resolve_protocol(str(tmp_path), {}) == stored
    assert resolve_protocol(str(tmp_path), {"aggregation": "min"}).calibration == stored.calibration
    for changed in ({"max_steps": 3}, {"objective": "soft"}, {"objective": "advantage"}, {"system_prompt": "Judge."}):
        assert resolve_protocol(str(tmp_path), changed).calibration is None
    with pytest.raises(ValueError, match="'advantage' has scores that are no probabilities: no calibration"):
        Protocol("advantage", calibration=Calibration("temperature"))
