"""A reward function for TRL's `GRPOTrainer`, and for other trainers of TRL that take ``reward_funcs``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.process_reward import QuestionWithResponses, RewardModelServer
from lightning_modules.reinforcement_learning.chat_texts import Chat, completion_text, pictures_in, question_of
from lightning_modules.reinforcement_learning.pictures import pictures_of
from lightning_modules.reinforcement_learning.response_rewards import ResponseRewards

_IMAGE_COLUMNS = ("images", "image")

RewardFunction = Callable[..., list[float]]


def reward_function(
    model_name_or_path: str,
    aggregation: Aggregation | None = None,
    server: RewardModelServer | None = None,
    question_column: str | None = None,
    images_column: str | None = None,
    device: str | None = None,
    **options: Any,
) -> RewardFunction:
    """A function that TRL calls with prompts and completions, and that returns their response scores.

    ``GRPOTrainer(reward_funcs=reward_function("runs/model"), ...)``. TRL calls it with the keywords ``prompts``,
    ``completions`` and one for each further column of the data set. The completions of the same prompt share what they
    share, or are in flight together if servers score.

    Args:
        model_name_or_path: Exported reward model.
        aggregation: From step scores to the reward, see :class:`ResponseRewards`.
        server: Servers that hold the model; without any it is loaded here.
        question_column: Column with the question; by default the text of the prompt, which may be a plain text or a
            chat with one user turn.
        images_column: Column with the pictures; by default those in the prompt, or ``images`` or ``image`` as of TRL.
        device: See :class:`ResponseRewards`.
        **options: Further arguments of :class:`lightning_modules.process_reward.ProcessRewardModel`.

    Returns:
        The function. Its name is ``process_reward_<aggregation>``, under which TRL logs it. It raises ValueError or
        TypeError about a row that cannot be used, with the number of the row and the name of the column.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If an argument is wrong.
    """
    rewards = ResponseRewards(model_name_or_path, aggregation, server, device, **options)
    rules = rewards.model.protocol.reading_rules

    def score(prompts: Sequence[str | Chat], completions: Sequence[str | Chat], **columns: Any) -> list[float]:
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts were given for {len(completions)} completions")
        asked = []
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            where = f"row {row} of the batch"
            if question_column is None:
                question = question_of(prompt, where, "question_column")
            else:
                question = _cell(columns, question_column, row, where)
            pictures, place = _pictures(prompt, columns, images_column, row, where)
            images = pictures_of(pictures, place, rules.pictures)
            asked.append(QuestionWithResponses(images, question, [completion_text(completion, where)], where))
        return [reward for (reward,) in rewards(asked)]

    score.__name__ = f"process_reward_{rewards.aggregation}"
    return score


def _pictures(
    prompt: str | Chat, columns: Mapping[str, Any], images_column: str | None, row: int, where: str
) -> tuple[Any, str]:
    """The pictures of a row, and where they were found."""
    if images_column is not None:
        return _cell(columns, images_column, row, where), f"{where}, column {images_column!r}"
    found = pictures_in(prompt, where)
    if found and all(each is not None for each in found):
        return found, f"{where}, prompt"
    for name in _IMAGE_COLUMNS:
        if name in columns:
            return _cell(columns, name, row, where), f"{where}, column {name!r}"
    if found:
        raise ValueError(
            f"{where}: the prompt has {len(found)} places for pictures, but no pictures; name the column with them: "
            f"images_column (columns are {', '.join(sorted(columns)) or 'none'})"
        )
    return None, where


def _cell(columns: Mapping[str, Any], name: str, row: int, where: str) -> Any:
    if name not in columns:
        raise ValueError(
            f"{where}: there is no column {name!r}; the data set gives {', '.join(sorted(columns)) or 'no columns'}"
        )
    return columns[name][row]
