"""Custom reward functions for verl, by the path of this file.

.. code-block:: yaml

    custom_reward_function:          # in newer versions below `reward`
      path: .../lightning_modules/reinforcement_learning/verl.py
      name: compute_score            # compute_scores for reward_manager=batch
      reward_kwargs:
        model_name_or_path: runs/model
        base_urls: ["http://host:8000/v1"]

A row needs its question in ``extra_info``, where verl's own preprocessing puts it (``extra_info["question"]``), and its
pictures, if it has any, in ``extra_info["images"]``: verl hands on nothing else of a row.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.process_reward import QuestionWithResponses, RewardModelServer
from lightning_modules.reinforcement_learning.pictures import pictures_of
from lightning_modules.reinforcement_learning.response_rewards import ResponseRewards

_OF_VERL = frozenset(
    {
        "concurrent_semaphore",
        "memory_limit_mb",
        "reward_model_tokenizer",
        "reward_router_address",
        "sandbox_fusion_url",
        "strict_box_verify",
    }
)
"""Keywords that reward managers of verl add by themselves."""

_rewards: dict[str, ResponseRewards] = {}
_lock = threading.Lock()


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any = None,
    extra_info: Mapping[str, Any] | None = None,
    **reward_kwargs: Any,
) -> float:
    """The response score of one solution; called by all reward managers of verl but ``batch``.

    Args:
        data_source: Name of the data set, for errors.
        solution_str: Steps are separated by blank lines.
        ground_truth: Not read: a reward model needs no answer.
        extra_info: Of the row, see the module.
        **reward_kwargs: See :func:`compute_scores`.

    Raises:
        TypeError: See :func:`compute_scores`.
        ValueError: See :func:`compute_scores`.
    """
    return compute_scores([data_source], [solution_str], [ground_truth], [extra_info], **reward_kwargs)[0]


def compute_scores(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any] | None = None,
    extra_infos: Sequence[Mapping[str, Any] | None] = (),
    *,
    model_name_or_path: str = "",
    aggregation: Aggregation | None = None,
    base_urls: Sequence[str] | None = None,
    server: Mapping[str, Any] | None = None,
    device: str | None = None,
    question_key: str = "question",
    images_key: str = "images",
    options: Mapping[str, Any] | None = None,
    **of_verl: Any,
) -> list[float]:
    """The response scores of a batch; for ``reward_manager=batch``. The model is loaded once a process.

    Args:
        data_sources: Names of the data sets, for errors.
        solution_strs: Steps are separated by blank lines.
        ground_truths: Not read: a reward model needs no answers.
        extra_infos: Of the rows, see the module.
        model_name_or_path: Exported reward model.
        aggregation: From step scores to the reward, see :class:`ResponseRewards`.
        base_urls: Addresses of servers that hold the model; without any it is loaded here.
        server: More settings of :class:`RewardModelServer`, such as ``model`` and ``concurrency``.
        device: See :class:`ResponseRewards`.
        question_key: Where ``extra_info`` has the question.
        images_key: Where it has the pictures.
        options: Further arguments of :class:`lightning_modules.process_reward.ProcessRewardModel`.
        **of_verl: What verl adds by itself; not read.

    Raises:
        TypeError: If an argument is unknown.
        ValueError: If a row lacks its question, or cannot be used; names data source, row and key.
    """
    if unknown := sorted(set(of_verl) - _OF_VERL):
        raise TypeError(f"custom_reward_function.reward_kwargs: unknown {', '.join(unknown)}")
    if not model_name_or_path:
        raise ValueError("custom_reward_function.reward_kwargs: model_name_or_path is missing")
    servers = {**(server or {}), **({"base_urls": list(base_urls)} if base_urls else {})}
    rewards = _loaded(model_name_or_path, aggregation, servers, device, dict(options or {}))
    rules = rewards.model.protocol.reading_rules
    asked = []
    for row, (source, solution, info) in enumerate(zip(data_sources, solution_strs, extra_infos, strict=True)):
        info = info or {}
        place = f"index {info['index']}" if "index" in info else f"row {row} of the batch"
        where = f"{source}, {place}"
        question = info.get(question_key)
        if not isinstance(question, str) or not question.strip():
            raise ValueError(
                f"{where}: extra_info[{question_key!r}] must hold the question, got {question!r:.80}; extra_info has "
                f"{', '.join(sorted(info)) or 'nothing'} (name another key: reward_kwargs.question_key)"
            )
        images = pictures_of(info.get(images_key), f"{where}, extra_info[{images_key!r}]", rules.pictures)
        asked.append(QuestionWithResponses(images, question, [solution], where))
    return [reward for (reward,) in rewards(asked)]


def _loaded(
    model_name_or_path: str,
    aggregation: Aggregation | None,
    server: dict[str, Any],
    device: str | None,
    options: dict[str, Any],
) -> ResponseRewards:
    key = repr((model_name_or_path, aggregation, sorted(server.items()), device, sorted(options.items())))
    with _lock:
        if key not in _rewards:
            holder = RewardModelServer(**server) if server else None
            _rewards[key] = ResponseRewards(model_name_or_path, aggregation, holder, device, **options)
        return _rewards[key]
