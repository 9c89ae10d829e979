"""What modules, callbacks and data modules declare to each other.

The module of a run tells its data module how it reads conversations (``*Facts``). Modules and callbacks ask a data
module only for what a protocol here names; a data module of your own takes part by having those members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from transformers import ProcessorMixin

from datamodules.batching.collate import Verdicts
from datamodules.batching.shards import Shard
from datamodules.conversation.encoder import ConversationEncoder

if TYPE_CHECKING:
    from datamodules.picture_controls import PictureControl


@dataclass(frozen=True)
class RewardModelFacts:
    """How a reward model reads conversations.

    Attributes:
        encoder: Renders and tokenizes them, and holds the rules by which data are read.
        max_steps: Solutions with more steps have neighbouring ones merged.
        response_as_one_step: Whether it judges whole responses, as outcome reward models do.
        mark_step_tokens: Whether training batches need :attr:`datamodules.batching.collate.StepBatch.step_tokens`.
        packing_obstacle: Why the model cannot be trained on packed conversations; None if it can.
        training_verdicts: Gives the class tokens in the assistant turns of training conversations; None for the first
            class token in each.
        max_tokens: Positions that the model was made for, which no conversation should exceed; None if it has no bound.
        needs_all_continuations: Why the shares of steps that were continued up to their first success are no targets of
            this model; None if their labels are all that it needs.
        needs_measured_scores: Likewise, of steps whose scores a binary search has inferred.
    """

    encoder: ConversationEncoder
    max_steps: int
    response_as_one_step: bool
    mark_step_tokens: bool = False
    packing_obstacle: str | None = None
    training_verdicts: Verdicts | None = None
    max_tokens: int | None = None
    needs_all_continuations: str | None = None
    needs_measured_scores: str | None = None


@dataclass(frozen=True)
class PolicyFacts:
    """How a policy reads prompts.

    Attributes:
        processor: Renders chats and tokenizes them; None if another program does, which holds the policy.
        packing_obstacle: Why the policy cannot be trained on packed conversations; None if it can.
        max_tokens: Positions that the policy was made for, which no demonstration should exceed; None if it has no
            bound.
    """

    processor: ProcessorMixin | None
    packing_obstacle: str | None = None
    max_tokens: int | None = None


@runtime_checkable
class RewardModelData(Protocol):
    """A data module that serves a reward model."""

    def connect(self, model: RewardModelFacts) -> None:
        """Take over the facts; called by the model's `setup`, before any dataloader is asked for."""


@runtime_checkable
class PolicyData(Protocol):
    """A data module that serves a policy."""

    def connect(self, model: PolicyFacts) -> None:
        """Take over the facts; called by the policy's `setup`, before any dataloader is asked for."""


@runtime_checkable
class EvaluationData(Protocol):
    """A data module whose evaluation dataloaders have names."""

    @property
    def validation_names(self) -> Sequence[str]:
        """Names of the dataloaders of `validate` and `test`, in their order."""


@runtime_checkable
class PictureControlData(Protocol):
    """A data module that can show its evaluation data with other pictures."""

    def control_dataloaders(self, control: PictureControl) -> Sequence[tuple[str, DataLoader[Any], int]]:
        """Name, dataloader, and number of questions that keep their pictures, of each evaluation set with pictures."""

    def pictured_ids(self, name: str) -> list[str]:
        """Ids of the questions or solutions of an evaluation set that have pictures."""


@runtime_checkable
class ProcessSupervisionData(Protocol):
    """A data module that knows where its process supervision comes from."""

    @property
    def training_sources(self) -> dict[str, int]:
        """Number of training rows of each source, as far as they are read."""

    @property
    def process_split_name(self) -> str:
        """Names the data of the process validation split, for reports."""


@runtime_checkable
class SystemPromptData(Protocol):
    """A data module whose training rows may have a system turn."""

    def training_system_prompt(self) -> str:
        """The system turn that all training rows have; raises ValueError if there is no such text."""


@runtime_checkable
class PromptData(Protocol):
    """A data module whose prompts a `predict` run answers, in one go or in several.

    Attributes:
        completed_ids: Prompts that earlier runs have answered; set before the dataloader is asked for.
    """

    completed_ids: set[str]

    @property
    def prompt_ids(self) -> list[str]:
        """Ids of all prompts in their order, the completed ones included."""

    @property
    def shard(self) -> Shard:
        """Which of the prompts this run answers."""


@runtime_checkable
class PromptContents(Protocol):
    """A data module of prompts that tells when the content of one has changed."""

    @property
    def prompt_digests(self) -> dict[str, str]:
        """Digest of the content of each prompt by id, in their order."""


@runtime_checkable
class PromptInstructions(Protocol):
    """A data module of prompts that tells whether they come with instructions."""

    @property
    def asks_with_instruction(self) -> bool:
        """Whether a prompt is asked with more than its question."""


@runtime_checkable
class PredictionSettings(Protocol):
    """A module or data module that names what its predictions depend on."""

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """Plain values by name; predictions are continued only with the same ones."""


@runtime_checkable
class PredictionCosts(Protocol):
    """A module that says what its predictions have cost.

    Attributes:
        prediction_costs: For each prompt of the last batch by id, numbers by name, which are summed up.
    """

    prediction_costs: Mapping[str, Mapping[str, float]]


@runtime_checkable
class GrowingPredictions(Protocol):
    """A module that can add samples to those that are there.

    Attributes:
        growing_setting: Name of the prediction setting that says how many samples there are of each prompt.
        samples_done: How many samples of a prompt are there, by its id; set before anything is predicted.
    """

    growing_setting: str
    samples_done: Mapping[str, int]


@runtime_checkable
class PromptSources(Protocol):
    """A data module that knows where its prompts are from."""

    @property
    def prompt_sources(self) -> Mapping[str, str]:
        """Name of the source, or benchmark, of each prompt by id."""


@runtime_checkable
class PredictionCard(Protocol):
    """A module that describes its predictions, once they are complete."""

    def prediction_card(
        self, rows: Path, settings: Mapping[str, Any], costs: Mapping[str, float], when: str | None
    ) -> str:
        """Markdown about a JSONL file of predictions, with what they depend on and what they have cost."""


def data_module_of(trainer: Trainer) -> object:
    """The data module of a trainer's run; None where it was given dataloaders. Check it with `isinstance`."""
    # Lightning sets the attribute in its data connector, without declaring it.
    return getattr(trainer, "datamodule", None)


def evaluation_name(trainer: Trainer, dataloader_idx: int) -> str:
    """Name of an evaluation dataloader; empty where the data module names none."""
    data = data_module_of(trainer)
    return data.validation_names[dataloader_idx] if isinstance(data, EvaluationData) else ""
