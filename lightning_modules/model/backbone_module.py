"""What every Lightning module with a backbone does about its options, its weights and its checkpoints."""

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
from lightning_modules.model.blank_picture import BlankPicture
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
    """A module whose checkpoints hold no base weights that never change.

    With adapters or a quantized base, a checkpoint holds what is trained (adapters, projector, step head) and not the
    frozen weights below: these come from ``model_name_or_path`` again, and loading a checkpoint leaves them as they
    are. Otherwise it holds everything.
    """

    backbone: PreTrainedModel
    backbone_options: BackboneOptions
    processor: ProcessorMixin
    optimizer_factory: OptimizerFactory | None = None
    _blank_picture: BlankPicture | None = None

    def on_fit_start(self) -> None:
        """See :meth:`on_validation_start`."""
        super().on_fit_start()
        self.on_validation_start()

    def on_validation_start(self) -> None:
        """In a distributed run, let ranks without pictures keep in step with those that have some."""
        if self.trainer.world_size > 1 and self._blank_picture is None:
            self._blank_picture = BlankPicture(self.backbone, self.processor)

    on_test_start = on_validation_start

    def keep_backbone_options(self, options: BackboneOptions | Mapping[str, Any] | None) -> BackboneOptions:
        """Keep the options, also among the hyperparameters, as a mapping: checkpoints hold plain values only.

        Args:
            options: A module that is loaded from a checkpoint gets them as that mapping.
        """
        self.backbone_options = BackboneOptions.of(options)
        self.save_hyperparameters({"backbone": asdict(self.backbone_options)})
        if self.is_partial:
            self.strict_loading = False
        return self.backbone_options

    def build(self) -> None:
        """Make the backbone, and in subclasses what sits on it."""
        self.backbone = load_backbone(self.hparams["model_name_or_path"], self.backbone_options)

    def cpu(self) -> Self:
        """Move the weights to main memory, if there are any yet.

        Lightning calls it when a run ends, also where it failed before :meth:`configure_model`; an error about tensors
        without data would then stand where the cause should.
        """
        return self if lacks_weights(self) else super().cpu()

    def configure_model(self) -> None:
        """Load the weights of a module that was made without, and shard them where the strategy has a device mesh.

        Raises:
            ValueError: If they cannot be sharded.
        """
        if self.device_mesh is not None and not is_sharded(self):
            self._shard()
        elif lacks_weights(self):
            self.build()

    @property
    def sharding(self) -> ShardingOptions:
        """How the strategy wants weights to be sharded."""
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
        """Hold whole weights while texts are sampled, unless the strategy says otherwise."""
        self.on_validation_start()
        if is_sharded(self) and self.sharding.whole_to_predict:
            gather_all(self)

    def on_predict_end(self) -> None:
        """Go back to shards."""
        self._let_go()

    def on_validation_end(self) -> None:
        """Go back to shards, which an optimizer or a checkpoint may ask for next."""
        self._let_go()

    on_test_end = on_validation_end

    def _let_go(self) -> None:
        if is_sharded(self):
            let_go(self, self.sharding)

    def unsharded(self) -> Self | None:
        """This module with whole weights: itself, or where they are sharded a copy on the CPU of rank zero.

        Where they are sharded, all ranks must call it together; one tensor is gathered at a time.

        Returns:
            None on the other ranks.
        """
        if not is_sharded(self):
            return self
        self._let_go()
        whole = copy.copy(self)
        whole._trainer = self._trainer
        whole._modules = dict(self._modules)
        with structure_only(self.backbone.dtype):
            whole.build()
        return whole if gather_into(whole, self) else None

    @property
    def is_partial(self) -> bool:
        """Whether checkpoints hold trained weights alone."""
        return self.backbone_options.lora is not None or self.backbone_options.quantization is not None

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, or the chosen optimizer, with linear warm-up and cosine decay; settings are hyperparameters."""
        options = {name: self.hparams[name] for name in _OPTIMIZATION if name in self.hparams}
        return configure_warmup_cosine(self, self.optimizer_factory, **options)

    def configure_callbacks(self) -> list[Callback]:
        """Make checkpoints complete and resuming exact, in every run."""
        return [ResumableTraining()]

    def _trained_names(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights of the base out; see the class."""
        if self.is_partial:
            trained = self._trained_names()
            checkpoint["state_dict"] = {
                name: value
                for name, value in checkpoint["state_dict"].items()
                if name in trained or not name.startswith(_PREFIX)
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a partial checkpoint fits; what it leaves out is loaded already.

        Raises:
            ValueError: If it lacks a trained weight, or holds one that this module does not have.
        """
        if "state_dict" in checkpoint:
            self.check_stored(set(checkpoint["state_dict"]))

    def check_stored(self, stored: set[str]) -> None:
        """Check that the weights of a partial checkpoint, by name, fit.

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
