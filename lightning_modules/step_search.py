"""Search led by a reward model: a policy writes solutions step by step, and only good beginnings are continued."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import Context
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from datamodules.interfaces import PredictionSettings, data_module_of
from datamodules.policy.prompt_batches import PromptBatch
from lightning_modules.generation.engine import GenerationEngine
from lightning_modules.generation.graded_rollouts import graded_rollout
from lightning_modules.generation.sampling import SamplingParameters, sampling_settings
from lightning_modules.generation.sampling_module import SamplingModule
from lightning_modules.generation.transformers_engine import TransformersEngine, engine_settings
from lightning_modules.metrics.response_score import Aggregation, aggregate_step_scores, aggregations_for
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.weights_digest import weights_digest
from lightning_modules.process_reward import ProcessRewardModel
from lightning_modules.scoring.responses import QuestionWithResponses, read_responses
from lightning_modules.scoring.served_scorer import RewardModelServer
from lightning_modules.search.options import SearchOptions
from lightning_modules.search.tree import Node
from lightning_modules.search.window import QuestionSearch, SearchWindow

_QUESTIONS_AT_ONCE = 8  # whose pictures are in memory together when beginnings are scored


@dataclass(frozen=True)
class SearchRewardModel:
    """The reward model that leads a search.

    Attributes:
        model_name_or_path: A folder that :meth:`ProcessRewardModel.save_pretrained` wrote, or any checkpoint that
            :class:`ProcessRewardModel` takes.
        aggregation: From step scores to the score of a solution; by default what the folder says.
        scoring_memory_gib: See :class:`ProcessRewardModel`.
        server: Servers that hold the model; by default it is loaded into this process, whole on each rank.
    """

    model_name_or_path: str
    aggregation: Aggregation | None = None
    scoring_memory_gib: float | None = None
    server: RewardModelServer | None = None

    def load(self) -> ProcessRewardModel:
        """The model, for scoring only."""
        return (
            ProcessRewardModel(
                self.model_name_or_path,
                aggregation=self.aggregation,
                scoring_memory_gib=self.scoring_memory_gib,
                server=self.server,
            )
            .eval()
            .requires_grad_(False)
        )


class StepSearch(SamplingModule):
    """Searches for solutions of benchmark questions; `predict` returns rollout rows, the best solution first.

    Steps end at blank lines. A beginning is continued by the engine as a partial solution, and scored as the reward
    model scores any solution. Solutions that have ended are ranked by their response score, as Best-of-N ranks them.

    Rows are those of :class:`lightning_modules.policy.Policy`, with ``search``: the ``response_score`` and
    ``step_scores`` of the solution and all ``sampled_tokens`` of the question; in the first row of a question also the
    ``tree`` (:meth:`lightning_modules.search.tree.SearchTree.record`).

    Args:
        model_name_or_path: The policy: any image-text-to-text or causal language model checkpoint.
        reward_model: What leads the search.
        search: What the search does.
        num_candidates: Solutions that are written of each question, the best ones. A search that has found fewer
            repeats them in their order.
        sampling: How steps are sampled; ``max_new_tokens`` is that of a whole solution.
        backbone: How the policy's checkpoint is loaded.
        engine: What samples, by class path; the model in this process by default.

    Attributes:
        reward_model: The model; no submodule.
        prediction_costs: What the prompts of the last batch have cost, by id.

    Raises:
        ValueError: If ``num_candidates`` is below 1, or the reward model judges whole responses only.
    """

    reward_model: ProcessRewardModel

    def __init__(
        self,
        model_name_or_path: str,
        reward_model: SearchRewardModel,
        search: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
        num_candidates: int = 1,
        sampling: SamplingParameters = SamplingParameters(),  # noqa: B008 - frozen
        backbone: BackboneOptions | None = None,
        engine: GenerationEngine | None = None,
    ) -> None:
        super().__init__()
        if num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, got {num_candidates}")
        self.save_hyperparameters("model_name_or_path")
        self.keep_backbone_options(backbone)
        self.model_name_or_path, self.reward_options = model_name_or_path, reward_model
        self.search, self.num_candidates, self.sampling = search, num_candidates, sampling
        self.prediction_costs: dict[str, dict[str, float]] = {}
        # Lightning's command line keeps the arguments of the module that it creates in a context variable, where a
        # module within it would take them for its own. As a submodule it would be in the policy's checkpoints.
        object.__setattr__(self, "reward_model", Context().run(reward_model.load))
        if self.reward_model.protocol.response_as_one_step:
            raise ValueError(
                f"reward_model: {reward_model.model_name_or_path} judges whole responses (objective "
                f"{self.reward_model.protocol.objective!r}), and cannot lead a search by steps"
            )
        possible = aggregations_for(self.reward_model.protocol.score_range)
        if search.value and search.value not in possible:
            raise ValueError(
                f"search.value {search.value!r} has no meaning for scores of objective "
                f"{self.reward_model.protocol.objective!r}; use one of {', '.join(possible)}"
            )
        self.load_for(engine or TransformersEngine())

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What the rollouts depend on besides the prompts."""
        data = data_module_of(self._trainer) if self._trainer else None
        reward = self.reward_options
        return {
            "model": self.model_name_or_path,
            "weights": weights_digest(self.model_name_or_path),
            "reward_model": reward.model_name_or_path,
            "reward_model_weights": weights_digest(reward.model_name_or_path),
            "aggregation": self.reward_model.protocol.aggregation,
            "search": asdict(self.search),
            "num_candidates": self.num_candidates,
            "sampling": sampling_settings(self.sampling),
            "data": data.prediction_settings if isinstance(data, PredictionSettings) else {},
            **engine_settings(self.engine),
        }

    def on_predict_start(self) -> None:
        """Have the reward model where the policy is; see also :meth:`BackboneModule.on_predict_start`."""
        super().on_predict_start()
        self.reward_model.to(self.device)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """Search for solutions of the questions of a batch.

        Returns:
            For each prompt its id and its rollout rows.
        """
        self.attach_engine()
        begin = time.perf_counter()
        self._leave_out_unreadable(batch)

        def score(texts: Sequence[tuple[int, list[str]]]) -> list[list[list[float]]]:
            return self._scores(batch, texts)

        aggregation = self.reward_model.protocol.aggregation
        window = SearchWindow(batch, self.search, self.sampling, score, aggregation, self._is_readable)
        window.run(self.engine)
        seconds = (time.perf_counter() - begin) / len(batch.prompts)
        self.prediction_costs = {}
        rows = []
        for prompt, found in zip(batch.prompts, window.searches, strict=True):
            rows.append((prompt.prompt_id, [] if found is None else self._rows(batch, found)))
            if found is not None:
                self.prediction_costs[prompt.prompt_id] = asdict(replace(found.costs, seconds=seconds))
        return rows

    def _leave_out_unreadable(self, batch: PromptBatch) -> None:
        """Leave out questions that the policy can read and the reward model cannot, before anything is sampled."""
        for index, prompt in enumerate(batch.prompts):
            if prompt.prompt_id not in batch.left_out:
                try:
                    asked = self._asked(batch, index, ["any step"])
                    read_responses(asked, self.reward_model.encoder, self.reward_model.protocol)
                except ValueError as problem:
                    batch.leave_out(prompt, problem)

    def _asked(self, batch: PromptBatch, index: int, texts: list[str]) -> QuestionWithResponses:
        prompt = batch.prompts[index]
        is_bare = self.reward_model.encoder.rules.question_text == "bare"
        question = prompt.question if is_bare else prompt.policy_text
        return QuestionWithResponses(batch.images[index], question, texts, prompt.prompt_id)

    def _is_readable(self, step: str) -> bool:
        return not any(token in step for token in self.reward_model.encoder.special_tokens)

    def _scores(self, batch: PromptBatch, texts: Sequence[tuple[int, list[str]]]) -> list[list[list[float]]]:
        """Step scores of beginnings; ranks do not wait for each other."""
        asked = [self._asked(batch, index, of_question) for index, of_question in texts]
        pieces = [asked[place : place + _QUESTIONS_AT_ONCE] for place in range(0, len(asked), _QUESTIONS_AT_ONCE)]
        return [
            scored.step_scores
            for piece in pieces
            for scored in self.reward_model.score_questions(piece, with_all_ranks=False)
        ]

    def _rows(self, batch: PromptBatch, found: QuestionSearch) -> list[dict[str, Any]]:
        prompt, tree = batch.prompts[found.index], found.tree
        policy = Path(self.model_name_or_path).name
        # Without an end there are at least beginnings, unless nothing that was sampled can be read.
        ranked = self._ranked(tree.finished or tree.nodes[1:])
        if not ranked:
            problem = ValueError(f"none of {tree.samples} sampled steps can be read by the reward model")
            batch.leave_out(prompt, problem)
        rows = []
        for number, node in enumerate(islice(cycle(ranked), self.num_candidates)):
            search = {
                "response_score": self._response_score(node),
                "step_scores": node.step_scores,
                "sampled_tokens": tree.sampled_tokens,
                **({} if number else {"tree": tree.record()}),
            }
            rows.append(graded_rollout(prompt, number, node.text, self.sampling, policy) | {"search": search})
        return rows

    def _ranked(self, nodes: Sequence[Node]) -> list[Node]:
        return sorted(nodes, key=lambda node: (-self._response_score(node), node.number))

    def _response_score(self, node: Node) -> float:
        return aggregate_step_scores(node.step_scores, self.reward_model.protocol.aggregation)
