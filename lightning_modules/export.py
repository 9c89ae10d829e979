"""A trained reward model as an ordinary checkpoint folder with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.files import atomic_write_text
from lightning_modules.model.chat_template import opened_with
from lightning_modules.model.lora import merged_backbone
from lightning_modules.model.pretrained_folder import MAX_SHARD_SIZE, write_pretrained
from lightning_modules.model.text_processor import TextProcessor
from lightning_modules.model_card import CardFacts, model_card
from lightning_modules.protocol import save_protocol
from lightning_modules.training_record import training_record

if TYPE_CHECKING:
    from lightning_modules.process_reward import ProcessRewardModel

MODEL_CARD = "README.md"


def write_reward_model(module: ProcessRewardModel, folder: str | Path, max_shard_size: str = MAX_SHARD_SIZE) -> None:
    """Write weights, processor, protocol and model card.

    Adapters are merged, and the rows of the step head are written into the language-model head, so that the
    next-token probabilities of a plain model at the places of judgement are the model's scores. The chat template opens
    with the system prompt where a conversation has none.

    Args:
        module: Is left as it is.
        folder: Files in it of the same names are replaced; nothing else is touched.
        max_shard_size: Largest file of weights.
    """
    merged = merged_backbone(module.backbone)
    module.head.write_back(merged)
    layout = module.encoder.layout
    template = opened_with(module.processor, layout)
    write_pretrained(merged, module.processor, folder, max_shard_size, template)
    save_protocol(module.protocol, folder)
    facts = CardFacts(
        protocol=module.protocol,
        loss=module.step_loss.options,
        base_model=str(module.hparams["model_name_or_path"]),
        record=training_record(module) or module.training_record,
        layout=layout,
        class_token_ids=module.encoder.class_token_ids,
        reads_images=not isinstance(module.processor, TextProcessor),
        opens_with_prompt=template is not None,
    )
    atomic_write_text(Path(folder) / MODEL_CARD, model_card(facts))
