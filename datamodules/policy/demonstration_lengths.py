"""Demonstrations that are longer than they may be, found before the first step as far as their texts say it."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.batching.lengths import TokenLimit
from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.policy.chat import ChatRenderer
from datamodules.policy.prompt_rows import usable_prompts
from datamodules.policy.prompts import Prompt
from datamodules.storage.bad_rows import MAX_BAD_ROWS, BadRows, OnBadRow

_TEMPLATE_BYTES = 1000
"""More than a chat template adds to the texts of one question and answer."""


def too_long_demonstration(prompt: Prompt, tokens: int, limit: TokenLimit) -> ValueError:
    """What is wrong with a demonstration of more tokens than the limit, with its place."""
    return ValueError(
        f"{prompt.where or prompt.prompt_id}: the conversation has {tokens} tokens, more than {limit.name}="
        f"{limit.tokens}; leave it out (on_bad_row: skip), or {limit.remedy}"
    )


def without_long_demonstrations(
    prompts: Sequence[Prompt],
    renderer: ChatRenderer,
    limit: TokenLimit,
    on_bad_row: OnBadRow,
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[Prompt]:
    """Leave out demonstrations whose texts alone are too long, or raise an error.

    Pictures are not opened, and count as a token each. What they add is seen when a batch is made, see
    :class:`datamodules.policy.demonstrations.SupervisedCollator`.

    Args:
        prompts: With their responses.
        renderer: Of the policy.
        limit: Most tokens of a conversation.
        on_bad_row: Leave them out and say how many and which, or raise an error at the first one.
        max_bad_rows: Largest share to leave out, see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.

    Raises:
        ValueError: If no demonstration is short enough, or one is not and ``on_bad_row`` is "error".
    """

    def problem_of(prompt: Prompt) -> ValueError | None:
        tokens = _text_tokens(prompt, renderer, limit.tokens)
        return too_long_demonstration(prompt, tokens, limit) if tokens > limit.tokens else None

    return usable_prompts(prompts, problem_of, BadRows(on_bad_row, max_bad_rows), "demonstration")


def _text_tokens(prompt: Prompt, renderer: ChatRenderer, enough: int) -> int:
    """Tokens of a conversation without what its pictures add; 0 where the texts have fewer bytes than ``enough``."""
    response = prompt.response or ""
    texts = (renderer.system_prompt, prompt.policy_text, response)
    if sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + _TEMPLATE_BYTES <= enough:
        return 0
    assert renderer.processor is not None, "demonstrations are tokenized for a model of this process"
    pictures = len(prompt.image_names) or prompt.policy_text.count(IMAGE_PLACEHOLDER)
    conversation = renderer.conversation(prompt.policy_text, pictures, response)
    return len(renderer.processor.tokenizer(conversation, add_special_tokens=False)["input_ids"])
