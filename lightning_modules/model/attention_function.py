"""Another attention function in the text decoder, for as long as a forward takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from lightning_modules.model.families import attention_layers


@contextmanager
def attending_by(name: str, model: PreTrainedModel) -> Iterator[None]:
    """Within this context all attention layers of the text decoder use a function of `transformers`' interface.

    Args:
        name: Under which the function is registered.
        model: Whose layers; afterwards they use what they used before.
    """
    configs = {id(layer.config): layer.config for layer in attention_layers(model)}.values()
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation
