"""Settings of a reward model, from a file, from arguments, by default."""

from dataclasses import replace

import pytest

from datamodules.process.conversation import DEFAULT_SYSTEM_PROMPT
from lightning_modules.protocol import PROTOCOL_FILE, Protocol, resolve_protocol, save_protocol


def test_protocol_without_a_file(tiny_checkpoint):
    expected = Protocol("value", 0.0, DEFAULT_SYSTEM_PROMPT, 12, "mean")
    assert resolve_protocol(str(tiny_checkpoint), {}) == expected
    assert resolve_protocol("organisation/name-on-the-hub", {"threshold": None}) == expected
    assert resolve_protocol(str(tiny_checkpoint), {"system_prompt": ""}).system_prompt == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"objective": "value"', "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"objektive": "value"}', r"must hold an object with keys \['aggregation', .*'max_steps', 'objective'"),
    ],
)
def test_a_broken_protocol_file(tmp_path, content, message):
    (tmp_path / PROTOCOL_FILE).write_text(content)
    with pytest.raises(ValueError, match=f"{PROTOCOL_FILE}: {message}"):
        resolve_protocol(str(tmp_path), {})


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
