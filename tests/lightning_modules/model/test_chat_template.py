"""The system prompt inside of a chat template."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.conversation.chat_layout import ChatLayout
from lightning_modules.model.chat_template import opened_with, without_opening

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())
AWKWARD = ["'\"\\", "{{ x }} {% y %} {# z #}", "\n\nnewlines\n", "\\n", "\\x41", "é 😀 \u2028", "}}'}}", "%}", "-%}"]


def write(processor, messages, template=None):
    options = {} if template is None else {"chat_template": template}
    return processor.apply_chat_template(messages, tokenize=False, **options)


def check(processor, prompt):
    template = opened_with(processor, ChatLayout(processor, prompt, ("+", "-")))
    assert template is not None
    user = {"role": "user", "content": [{"type": "text", "text": "Why?"}]}
    # By hand, as the template of tools/make_tiny_model.py writes turns.
    assert write(processor, [user], template) == f"<|system|>{prompt}<|end|><|user|>Why?<|end|>"
    own = {"role": "system", "content": "mine"}
    assert write(processor, [own, user], template) == "<|system|>mine<|end|><|user|>Why?<|end|>"
    changed = copy.copy(processor)
    changed.chat_template = template
    assert without_opening(changed).chat_template == processor.chat_template


@pytest.mark.parametrize("prompt", AWKWARD)
def test_awkward_prompts(tiny_processor, prompt):
    check(tiny_processor, prompt)


@given(TEXTS)
def test_any_prompt(tiny_processor, prompt):
    check(tiny_processor, prompt)


def test_nothing_to_write(tiny_processor):
    assert opened_with(tiny_processor, ChatLayout(tiny_processor, "", ("+", "-"))) is None
    template = tiny_processor.chat_template
    assert without_opening(tiny_processor).chat_template == template
