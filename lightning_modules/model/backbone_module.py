"""Base class of all Lightning modules with a backbone: options, weights, sharding and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from transformers import PreTrainedModel, ProcessorMixin

from lightning_modules.callbacks.resumable_training import ResumableTraining
from lightning_modules.distributed.meta_loading import lacks_weights, read_sharded, structure_only
from lightning_modules.distributed.sharded_weights import fill, gather_into, take_dtypes
from lightning_modules.distributed.sharding import ShardingOptions, data_mesh, gather_all, is_sharded, let_go, shard
from lightning_modules.model.backbone import BackboneOptions, load_backbone
from lightning_modules.model.dummy_image import DummyImage
from lightning_modules.training.global_mean import GlobalMeanModule
from lightning_modules.training.optimization import OptimizerFactory, configure_warmup_cosine

_PREFIX = "backbone."
_OPTIMIZATION = (
    "learning_rate",
    "weight_decay",
    "warmup_ratio",
    "head_learning_rate_multiplier",
    "vision_learning_rate_multiplier",
)


class BackboneModule(GlobalMeanModule):
    """A module with a backbone; its checkpoints leave out frozen base weights.

    With adapters or a quantized base, a checkpoint holds only the trained weights (adapters, projector, step head). The
    frozen ones are loaded from ``model_name_or_path`` again. Without adapters and quantization a checkpoint holds all
    weights.
    """

    backbone: PreTrainedModel
    backbone_options: BackboneOptions
    processor: ProcessorMixin
    optimizer_factory: OptimizerFactory | None = None
    _dummy_image: DummyImage | None = None

    def on_fit_start(self) -> None:
        """See :meth:`on_validation_start`.

        Raises:
            ValueError: If the attention cannot be trained on this device.
        """
        super().on_fit_start()
        if self.backbone_options.attention_implementation == "flex_attention" and self.device.type == "cpu":
            raise ValueError(
                "backbone.attention_implementation: PyTorch cannot train flex_attention on a CPU; give sdpa or eager"
            )
        self.on_validation_start()

    def on_validation_start(self) -> None:
        """In a distributed run, add the dummy image for ranks without pictures."""
        if self.trainer.world_size > 1 and self._dummy_image is None and self.has_weights:
            self._dummy_image = DummyImage(self.backbone, self.processor)

    on_test_start = on_validation_start

    def keep_backbone_options(self, options: BackboneOptions | Mapping[str, Any] | None) -> BackboneOptions:
        """Store the options, and a mapping of them in the hyperparameters: checkpoints hold plain values only.

        Args:
            options: The options, or the mapping of them that a checkpoint stores.
        """
        self.backbone_options = BackboneOptions.of(options)
        self.save_hyperparameters({"backbone": asdict(self.backbone_options)})
        if self.is_partial:
            self.strict_loading = False
        return self.backbone_options

    def build(self) -> None:
        """Create the backbone, and in subclasses the heads."""
        self.backbone = load_backbone(self.hparams["model_name_or_path"], self.backbone_options)

    def cpu(self) -> Self:
        """Move the weights to main memory, unless they are on the meta device.

        Lightning calls this at the end of a run, also of a run that failed before :meth:`configure_model`; an error
        about meta tensors would then hide the cause.
        """
        return self if lacks_weights(self) else super().cpu()

    def configure_model(self) -> None:
        """Load weights that are on the meta device, and shard them if the strategy has a device mesh.

        Raises:
            ValueError: If they cannot be sharded.
        """
        if not self.has_weights:
            return
        if self.device_mesh is not None and not is_sharded(self):
            self._shard()
        elif lacks_weights(self):
            self.build()

    @property
    def has_weights(self) -> bool:
        """Whether the model is in this process, be it still on the meta device; not if servers hold it."""
        return hasattr(self, "backbone")

    @property
    def sharding(self) -> ShardingOptions:
        """Sharding options of the strategy."""
        return getattr(self.trainer.strategy, "sharding", None) or ShardingOptions()

    def _shard(self) -> None:
        options = self.backbone_options
        if options.quantization:
            raise ValueError(
                f"backbone.quantization: {options.quantization} weights of bitsandbytes cannot be sharded; take "
                f"experiments/strategies/ddp.yaml, where every device holds them all, or leave quantization out"
            )
        sharding, source = self.sharding, None
        assert self.device_mesh is not None
        mesh = data_mesh(self.device_mesh, sharding, self.trainer.num_nodes)
        if lacks_weights(self):
            source = read_sharded(
                self.hparams["model_name_or_path"],
                mesh,
                options.torch_dtype or "auto",
                attn_implementation=options.attention_implementation,
            )
            with structure_only(source.dtype):
                self.build()
            take_dtypes(self.backbone, source)
        heads = [module for name, module in self.named_children() if name == "head"]
        shard(self.backbone, heads, mesh, sharding, self.trainer.precision)
        if source is not None:
            fill(self.backbone, heads, source, cpu_offload=sharding.cpu_offload)

    def on_predict_start(self) -> None:
        """Unshard the weights for sampling, unless the strategy says otherwise."""
        self.on_validation_start()
        if is_sharded(self) and self.sharding.whole_to_predict:
            gather_all(self)

    def on_validation_end(self) -> None:
        """Reshard the weights, for the optimizer and checkpoints."""
        if is_sharded(self):
            let_go(self, self.sharding)

    on_test_end = on_predict_end = on_validation_end

    def unsharded(self) -> Self | None:
        """This module with unsharded weights: itself, or if it is sharded a copy on the CPU of rank zero.

        If it is sharded, all ranks must call this together; one tensor is all-gathered at a time.

        Returns:
            None on the other ranks.
        """
        if not is_sharded(self):
            return self
        let_go(self, self.sharding)
        whole = copy.copy(self)
        whole._trainer = self._trainer
        whole._modules = dict(self._modules)
        with structure_only(self.backbone.dtype):
            whole.build()
        return whole if gather_into(whole, self) else None

    @property
    def is_partial(self) -> bool:
        """Whether checkpoints hold only the trained weights."""
        return self.backbone_options.lora is not None or self.backbone_options.quantization is not None

    @property
    def optimization(self) -> dict[str, float]:
        """The settings of the optimizer and its schedule, which are hyperparameters."""
        return {name: self.hparams[name] for name in _OPTIMIZATION if name in self.hparams}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, or the chosen optimizer, with linear warm-up and cosine decay."""
        return configure_warmup_cosine(self, self.optimizer_factory, **self.optimization)

    def configure_callbacks(self) -> list[Callback]:
        """Add the callback that makes resuming exact, in every run."""
        return [ResumableTraining()]

    def _trained_names(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the frozen base weights; see the class."""
        if self.is_partial:
            trained = self._trained_names()
            checkpoint["state_dict"] = {
                name: value
                for name, value in checkpoint["state_dict"].items()
                if name in trained or not name.startswith(_PREFIX)
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a partial checkpoint fits; the weights that it leaves out are loaded already.

        Raises:
            ValueError: If it lacks a trained weight, or holds one that this module does not have.
        """
        if "state_dict" in checkpoint:
            self.check_stored(set(checkpoint["state_dict"]))

    def check_stored(self, stored: set[str]) -> None:
        """Check the names of the weights of a partial checkpoint.

        Raises:
            ValueError: See :meth:`on_load_checkpoint`.
        """
        if not self.is_partial:
            return
        known = dict(self.named_parameters()) | dict(self.named_buffers())
        missing, extra = sorted(self._trained_names() - stored), sorted(stored - set(known))
        if missing or extra:
            raise ValueError(
                f"the checkpoint was made with other backbone options: it lacks {len(missing)} trained weights "
                f"{missing[:3]} and holds {len(extra)} unknown ones {extra[:3]}; give the backbone options of its run"
            )
