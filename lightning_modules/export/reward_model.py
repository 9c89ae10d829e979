"""Write a trained reward model as an ordinary checkpoint folder with a model card."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from datamodules.conversation.encoder import ConversationEncoder
from datamodules.storage.files import atomic_write_text
from lightning_modules.export.model_card import CardFacts, model_card
from lightning_modules.export.pretrained_folder import MAX_SHARD_SIZE, write_pretrained
from lightning_modules.model.chat_template import opened_with
from lightning_modules.model.lora import merged_backbone
from lightning_modules.model.step_head import StepHead
from lightning_modules.model.text_processor import TextProcessor
from lightning_modules.objectives.step_loss import LossOptions
from lightning_modules.protocol import Protocol, save_protocol
from lightning_modules.training.record import TrainingRecord

MODEL_CARD = "README.md"


def write_reward_model(
    folder: str | Path,
    backbone: PreTrainedModel,
    head: StepHead,
    processor: ProcessorMixin,
    encoder: ConversationEncoder,
    *,
    protocol: Protocol,
    loss: LossOptions,
    base_model: str,
    record: TrainingRecord | None,
    max_shard_size: str = MAX_SHARD_SIZE,
) -> None:
    """Write weights, processor, protocol and model card.

    Adapters are merged, and the rows of the step head are written into the language-model head. So the next-token
    probabilities of the plain model at step positions are the model's scores. The chat template adds the system prompt
    to conversations without one. Models and processor are not changed.

    Args:
        folder: Files in it of the same names are replaced; nothing else is touched.
        backbone: The language model, not sharded; adapters may be on it.
        head: The step head.
        processor: With the base model's chat template.
        encoder: How the model reads conversations.
        protocol: Kept beside the weights.
        loss: Options of the loss, for the card.
        base_model: Name or folder of the model that training began with, for the card.
        record: What the model was trained on, for the card; None if it is not known.
        max_shard_size: Largest file of weights, such as ``5GB``.
    """
    merged = merged_backbone(backbone)
    head.write_back(merged)
    template = opened_with(processor, encoder.layout)
    write_pretrained(merged, processor, folder, max_shard_size, template)
    save_protocol(protocol, folder)
    facts = CardFacts(
        protocol=protocol,
        loss=loss,
        base_model=base_model,
        record=record,
        layout=encoder.layout,
        class_token_ids=encoder.class_token_ids,
        reads_images=not isinstance(processor, TextProcessor),
        opens_with_prompt=template is not None,
    )
    atomic_write_text(Path(folder) / MODEL_CARD, model_card(facts))
