"""How the reward model in a folder reads conversations, found without loading its weights."""

from __future__ import annotations

from datamodules.interfaces import RewardModelFacts
from lightning_modules.distributed.meta_loading import structure_only


def reading_facts(model_name_or_path: str) -> RewardModelFacts:
    """What ``fit`` and ``test`` would tell their data module about a model with default settings.

    Args:
        model_name_or_path: As of :class:`lightning_modules.process_reward.ProcessRewardModel`.

    Raises:
        OSError: If there is no such model.
        ValueError: If its tokenizer does not suit step-by-step judgement.
    """
    from lightning_modules.process_reward import ProcessRewardModel  # takes seconds, and few commands need it

    with structure_only():
        return ProcessRewardModel(model_name_or_path).facts
