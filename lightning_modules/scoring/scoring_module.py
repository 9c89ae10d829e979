"""Base class of modules that score: conversations and candidates in, step scores out, here or through servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.batching.collate import StepBatch
from datamodules.conversation.candidates import EncodedCandidates
from datamodules.conversation.encoder import ConversationEncoder
from lightning_modules.metrics.response_score import aggregate_step_scores
from lightning_modules.model.backbone_module import BackboneModule
from lightning_modules.model.packed_forward import hidden_states, step_logits
from lightning_modules.model.step_head import StepHead
from lightning_modules.objectives.step_loss import step_scores
from lightning_modules.objectives.table import objective_named
from lightning_modules.protocol import FROM_DATA, Protocol
from lightning_modules.scoring.candidates import score_candidates
from lightning_modules.scoring.responses import QuestionWithResponses, ScoredResponses, read_responses
from lightning_modules.scoring.served_scorer import ServedScorer


class ScoringModule(BackboneModule):
    """Scores the steps of solutions, one by one or in batches.

    Attributes:
        protocol: All that decides a score beside the weights.
        encoder: Writes conversations as the protocol says.
        head: The class-token rows of the language-model head; absent if servers score.
        served: Servers that score in place of this process, or None.
    """

    protocol: Protocol
    encoder: ConversationEncoder
    head: StepHead
    served: ServedScorer | None

    def use_system_prompt(self, text: str) -> None:
        """Read conversations with a system prompt that was not known before."""
        self.protocol = replace(self.protocol, system_prompt=text)
        self.encoder.use_system_prompt(text)

    def require_system_prompt(self) -> None:
        """Refuse to go on while the system prompt is to come from the rows of a training.

        Raises:
            ValueError: If it is.
        """
        if self.protocol.system_prompt == FROM_DATA:
            raise ValueError(
                f"system_prompt is {FROM_DATA!r}, which training takes from its rows: fit the model or load a trained "
                f"one, or give the text of the system prompt"
            )

    def require_weights(self, purpose: str) -> None:
        """Refuse what cannot be done through servers.

        Args:
            purpose: What needs the weights, for the error.

        Raises:
            ValueError: If servers score.
        """
        if self.served is not None:
            raise ValueError(
                f"{purpose} needs the weights in this process, but model.server names servers that hold them; leave "
                f"model.server out (weights of a checkpoint are exported with visualprm-export and then served)"
            )

    def forward(self, batch: StepBatch) -> Tensor:
        """Class logits of all steps of a batch of conversations: (B, S, K) float32; up to a constant from servers."""
        if self.served is not None:
            rows = self.served.class_logits(batch.conversations or [])
            return pad_sequence(rows, batch_first=True).to(batch.step_positions.device)
        return step_logits(self.head, hidden_states(self.backbone, batch), batch)

    def scores_from_logits(self, logits: Tensor) -> Tensor:
        """Step scores: expected value of the class tokens, for instance P(+), calibrated; (..., K) -> (...)."""
        calibration, values = self.protocol.calibration, self.protocol.class_values
        return step_scores(logits, values) if calibration is None else calibration.of_logits(logits, values)

    def score_encoded(self, groups: Sequence[EncodedCandidates], with_all_ranks: bool = True) -> list[list[Tensor]]:
        """Step scores of encoded candidates. In a distributed run all ranks must call it together.

        Args:
            groups: Questions with their candidates.
            with_all_ranks: False for a call that the other ranks do not make, see :func:`score_candidates`.

        Returns:
            For each question, for each candidate, (S,) scores on the CPU.
        """
        return self.score_with_uncertainties(groups, with_all_ranks)[0]

    @torch.no_grad()
    def score_with_uncertainties(
        self, groups: Sequence[EncodedCandidates], with_all_ranks: bool = True
    ) -> tuple[list[list[Tensor]], list[list[Tensor]] | None]:
        """Step scores, and their uncertainties if the model learns any; each (S,) for each candidate of a question."""
        if self.served is not None:
            rows = iter(self.served.class_logits([each for group in groups for each in group.conversations or []]))
            logits = [[next(rows) for _ in group.suffixes] for group in groups]
        else:
            pad_id = self.processor.tokenizer.pad_token_id
            memory_gib = self.hparams["scoring_memory_gib"]
            logits = score_candidates(
                self.backbone, self.head, groups, pad_id, memory_gib, with_all_ranks=with_all_ranks
            )
        scores = [[self.scores_from_logits(candidate) for candidate in group] for group in logits]
        uncertainty = objective_named(self.protocol.objective).uncertainty
        if uncertainty is None or self.served is not None:  # servers give logits up to a constant
            return scores, None
        return scores, [[uncertainty(candidate) for candidate in group] for group in logits]

    def score(
        self, images: Image.Image | Sequence[Image.Image] | None, question: str, responses: Sequence[str]
    ) -> ScoredResponses:
        """Score N responses to one question.

        Args:
            images: One image, several (``<image>`` in the question says where), or None.
            question: Its text. A model that reads questions ``bare`` leaves out an instruction that is known; one that
                reads them ``as_asked`` is to be given what the policy was asked.
            responses: N solutions whose steps are separated by blank lines. A blank one is one empty step, as in the
                released scorer.

        Raises:
            TypeError: If an image is not a PIL image, or the responses are a single text.
            ValueError: If there are no responses, an image cannot be used, be it by this model's processor alone, or
                images and placeholders do not match.
        """
        (found,) = self.score_questions([QuestionWithResponses(images, question, responses)])
        return found

    def score_questions(
        self, questions: Sequence[QuestionWithResponses], with_all_ranks: bool = True
    ) -> list[ScoredResponses]:
        """Score the responses to several questions together; raises what :meth:`score` raises.

        Args:
            questions: With their responses.
            with_all_ranks: See :meth:`score_encoded`.
        """
        self.require_system_prompt()
        read = [read_responses(question, self.encoder, self.protocol) for question in questions]
        was_training = self.training
        self.eval()
        scores, uncertainties = self.score_with_uncertainties([encoded for _, encoded in read], with_all_ranks)
        self.train(was_training)
        found = []
        for number, ((steps, _), candidates) in enumerate(zip(read, scores, strict=True)):
            step_scores = [candidate.tolist() for candidate in candidates]
            response_scores = [aggregate_step_scores(each, self.protocol.aggregation) for each in step_scores]
            unsure = None if uncertainties is None else [each.tolist() for each in uncertainties[number]]
            found.append(ScoredResponses(steps, step_scores, response_scores, unsure))
        return found
