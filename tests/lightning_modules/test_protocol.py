"""Settings of a reward model, from a file, from arguments, by default."""

import pytest

from datamodules.process.conversation import DEFAULT_SYSTEM_PROMPT
from lightning_modules.protocol import PROTOCOL_FILE, Protocol, resolve_protocol


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
        ('{"objektive": "value"}', r"must hold an object with keys \['aggregation', 'max_steps', 'objective'"),
    ],
)
def test_a_broken_protocol_file(tmp_path, content, message):
    (tmp_path / PROTOCOL_FILE).write_text(content)
    with pytest.raises(ValueError, match=f"{PROTOCOL_FILE}: {message}"):
        resolve_protocol(str(tmp_path), {})
