"""Write a checkpoint folder that plain `transformers` loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from lightning_modules.model.chat_template import template_holder

MAX_SHARD_SIZE = "5GB"


def write_pretrained(
    backbone: PreTrainedModel,
    processor: ProcessorMixin,
    folder: str | Path,
    max_shard_size: str = MAX_SHARD_SIZE,
    chat_template: str | None = None,
) -> None:
    """Write configuration, weights (safetensors) and processor.

    The generation configuration keeps only its token ids: sampling parameters are not part of the folder.

    Args:
        backbone: Model without adapters, see :func:`lightning_modules.model.lora.merged_backbone`.
        processor: Processor to write; it is not changed.
        folder: Folder to write into; files of the same names are replaced, others are not touched.
        max_shard_size: Largest weight file, such as ``5GB``.
        chat_template: Template to write instead of the processor's own.
    """
    with _sampling_left_out(backbone):
        backbone.save_pretrained(folder, max_shard_size=max_shard_size)
    with _template(processor, chat_template), _without_last_padding(processor):
        processor.save_pretrained(folder)


def require_replaceable(folder: Path) -> bool:
    """Make sure that a folder which is to be replaced by a model's holds nothing else.

    Args:
        folder: That the model is to be in; it may not be there.

    Returns:
        Whether a model is there.

    Raises:
        FileExistsError: If something else is.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    if not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} holds no exported model and is not replaced; give another folder")
    return True


@contextmanager
def _sampling_left_out(backbone: PreTrainedModel) -> Iterator[None]:
    """Within this context the model's generation configuration has only its token ids."""
    own: Any = backbone.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    kept = {name: getattr(own, name, None) for name in names}
    backbone.generation_config = GenerationConfig(**{k: v for k, v in kept.items() if v is not None})
    try:
        yield
    finally:
        backbone.generation_config = own


@contextmanager
def _template(processor: ProcessorMixin, template: str | None) -> Iterator[None]:
    """Within this context the processor has another chat template, wherever it has the present one."""
    own = template_holder(processor).chat_template
    holders = [holder for holder in (processor, processor.tokenizer) if getattr(holder, "chat_template", None) == own]
    try:
        for holder in holders if template is not None else []:
            holder.chat_template = template
        yield
    finally:
        for holder in holders:
            holder.chat_template = own


@contextmanager
def _without_last_padding(processor: ProcessorMixin) -> Iterator[None]:
    """Within this context a fast tokenizer has no padding and truncation, which it keeps of its last call and saves."""
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    padding, truncation = backend.padding, backend.truncation
    backend.no_padding()
    backend.no_truncation()
    try:
        yield
    finally:
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)
