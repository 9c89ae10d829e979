"""Loading the multimodal language model behind a policy or a reward model, and making it ready to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from datamodules.interfaces import PolicyData, PolicyFacts, data_module_of
from datamodules.storage.checkpoint_names import loading, require_model
from lightning_modules.distributed.meta_loading import auto_class, is_structure_only, structure_of
from lightning_modules.model.chat_template import require_template, without_opening
from lightning_modules.model.families import language_model_of, parameters_of
from lightning_modules.model.lora import LoraOptions, add_lora, is_adapter
from lightning_modules.model.quantization import Quantization, keep_weights_as_loaded, quantization_arguments
from lightning_modules.model.supported import refuse_original_layout, refuse_unsupported
from lightning_modules.model.text_processor import TextProcessor

ImageBackend = Literal["torchvision", "pil"]
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class BackboneOptions:
    """How a checkpoint is loaded and which of its weights are trained.

    Attributes:
        dtype: ``auto`` (as stored), ``bfloat16``, ``float16``, ``float32`` or ``float64``.
        attention_implementation: ``sdpa``, ``flash_attention_2``, ...; None leaves the choice to `transformers`.
        quantization: ``nf4`` or ``int8`` holds the language model's matrices in 4 or 8 bits (bitsandbytes); they cannot
            be trained then, adapters on them can.
        gradient_checkpointing: Recompute the activations of each layer in the backward instead of storing them.
        compile: `torch.compile` every layer of the language model, in place.
        compile_backend: Backend of `torch.compile`.
        freeze: Any of ``vision``, ``projector``, ``language_model``, or paths of modules. The step head of a reward
            model is always trained.
        lora: Train adapters and freeze all other weights of the model.
    """

    dtype: str = "auto"
    attention_implementation: str | None = None
    quantization: Quantization | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    compile_backend: str = "inductor"
    freeze: list[str] = field(default_factory=list)
    lora: LoraOptions | None = None

    def __post_init__(self) -> None:
        if self.quantization not in (None, *get_args(Quantization)):
            raise ValueError(f"quantization must be one of {get_args(Quantization)} or null, got {self.quantization!r}")
        if self.torch_dtype is None and self.dtype != "auto":
            raise ValueError(f"dtype must be auto, bfloat16, float16, float32 or float64, got {self.dtype!r}")

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The requested dtype; None for the stored one."""
        found = getattr(torch, self.dtype, None)  # also by another name, such as half
        return found if isinstance(found, torch.dtype) and found in _DTYPES else None

    @classmethod
    def of(cls, options: BackboneOptions | Mapping[str, Any] | None) -> BackboneOptions:
        """The options as an object, from an object or from the mapping that a checkpoint stores.

        Raises:
            TypeError: If the mapping has an unknown key.
        """
        if isinstance(options, BackboneOptions):
            return options
        given = dict(options or {})
        if isinstance(given.get("lora"), Mapping):
            given["lora"] = LoraOptions(**given["lora"])
        return cls(**given)


def load_processor(
    name_or_path: str | Path, image_backend: ImageBackend | None = None, *, with_model: bool = True
) -> ProcessorMixin:
    """Load the processor (tokenizer, image processor, chat template) of a checkpoint; never runs remote code.

    A text-only checkpoint has only a tokenizer, which is wrapped in a :class:`TextProcessor`.

    Args:
        name_or_path: Folder, or a name on the hub.
        image_backend: What resizes images; None leaves the choice to `transformers` (torchvision). ``pil`` resizes as
            most released code does, at about a third of the speed; some pixels differ by a few of 256 levels.
        with_model: Whether the folder must be that of a model. Otherwise the files of the processor are enough.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If its files cannot be read, there is no chat template, or it is a folder in the original layout of
            InternVL.
    """
    require_model(name_or_path, processor_only=not with_model)
    refuse_original_layout(Path(name_or_path))
    with loading(name_or_path, "processor"):
        loaded = AutoProcessor.from_pretrained(name_or_path, trust_remote_code=False)
    processor = loaded if isinstance(loaded, ProcessorMixin) else TextProcessor(loaded)
    if image_backend is not None and not isinstance(processor, TextProcessor):
        # `AutoProcessor` would ask for a video processor of that backend too, and there are none.
        processor.image_processor = AutoImageProcessor.from_pretrained(
            name_or_path, backend=image_backend, trust_remote_code=False
        )
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        # Padding is masked everywhere, so that any token does; Llama's and Mistral's tokenizers name none.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return without_opening(require_template(processor, name_or_path))


def config_beside(name_or_path: str | Path) -> Any:
    """The configuration of a model beside its processor; None for a folder that holds the processor alone."""
    is_there = not Path(name_or_path).is_dir() or (Path(name_or_path) / "config.json").is_file()
    return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False) if is_there else None


def load_backbone(name_or_path: str | Path, options: BackboneOptions | None = None) -> PreTrainedModel:
    """Load any image-text-to-text or causal language model of `transformers`; never runs remote code.

    Within :func:`lightning_modules.distributed.meta_loading.structure_only` the weights are on the meta device.

    Args:
        name_or_path: Folder, or a name on the hub.
        options: The defaults if None.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If its files cannot be read, the options do not suit the model, or :func:`refuse_unsupported`
            refuses it.
    """
    refuse_unsupported(name_or_path)
    options = options or BackboneOptions()
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    if is_structure_only():
        with loading(name_or_path, "model"):
            structure = structure_of(config, options.torch_dtype, options.attention_implementation)
        prepare_backbone(structure, options)
        return structure.train()
    model_class = auto_class(config)
    dtype: torch.dtype | str = options.torch_dtype or "auto"
    arguments: dict[str, Any] = {}
    if options.quantization:
        dtype = options.torch_dtype or config.dtype or torch.float32
        arguments = quantization_arguments(model_class, config, options.quantization, dtype)
    with loading(name_or_path, "weights"):
        backbone = model_class.from_pretrained(
            name_or_path,
            dtype=dtype,
            attn_implementation=options.attention_implementation,
            trust_remote_code=False,
            **arguments,
        )
    keep_weights_as_loaded(backbone)
    prepare_backbone(backbone, options)
    # `from_pretrained` leaves it in evaluation mode; Lightning switches modes by itself from here on.
    return backbone.train()


def prepare_backbone(backbone: PreTrainedModel, options: BackboneOptions) -> None:
    """Freeze weights, add adapters, and enable gradient checkpointing and compilation, all in place.

    Raises:
        ValueError: If the model has no such part or layers, or there is no such compiler.
    """
    if options.quantization:
        for parameter in parameters_of(backbone, "language_model"):
            parameter.requires_grad_(False)
    if options.lora:
        add_lora(backbone, options.lora)
    for part in options.freeze:
        frozen = {id(parameter) for parameter in parameters_of(backbone, part)}
        for name, parameter in backbone.named_parameters():
            if id(parameter) in frozen and not is_adapter(name):
                parameter.requires_grad_(False)
    if options.gradient_checkpointing:
        # The reentrant kind gives no gradients at all where the inputs of a layer need none (frozen embeddings).
        backbone.activation_checkpointing_enable({"use_reentrant": False})
        # What `transformers` does for the reentrant kind: needless here, and it makes embeddings ask for gradients.
        backbone.disable_input_require_grads()
    if options.compile:
        layers: Any = language_model_of(backbone).layers
        _require_backend(options.compile_backend)
        for layer in layers:
            layer.compile(backend=options.compile_backend)


def _require_backend(name: str) -> None:
    # The compiler takes seconds to import.
    from torch._dynamo import list_backends

    if name not in (known := list_backends(exclude_tags=())):
        raise ValueError(f"backbone.compile_backend must be one of {', '.join(known)}, got {name!r}")


def max_positions(config: PretrainedConfig | None) -> int | None:
    """Positions that a model was made for; None if its configuration is not known or names none."""
    text = config.get_text_config(decoder=True) if config is not None else None
    return getattr(text, "max_position_embeddings", None)


def connect_processor(
    module: LightningModule, packing_obstacle: str | None = None, max_tokens: int | None = None
) -> None:
    """Pass a policy's processor, which may be None, to the trainer's data module, which renders prompts with it.

    The other arguments are those of :class:`datamodules.interfaces.PolicyFacts`.
    """
    data = data_module_of(module.trainer)
    if isinstance(data, PolicyData):
        data.connect(PolicyFacts(module.processor, packing_obstacle, max_tokens))  # type: ignore[arg-type]
