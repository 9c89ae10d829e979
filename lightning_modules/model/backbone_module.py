"""What every Lightning module with a backbone does about its options and its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, ProcessorMixin

from lightning_modules.global_mean import GlobalMeanModule
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.blank_picture import BlankPicture
from lightning_modules.model.sharding import ShardingOptions, data_mesh, shard

_PREFIX = "backbone."


class BackboneModule(GlobalMeanModule):
    """A module whose checkpoints hold no base weights that never change.

    With adapters or a quantized base, a checkpoint holds what is trained (adapters, projector, step head) and not the
    frozen weights below: these come from ``model_name_or_path`` again, and loading a checkpoint leaves them as they
    are. Otherwise it holds everything.
    """

    backbone: PreTrainedModel
    backbone_options: BackboneOptions
    processor: ProcessorMixin
    _blank_picture: BlankPicture | None = None

    def on_fit_start(self) -> None:
        """See :meth:`on_validation_start`."""
        super().on_fit_start()
        self.on_validation_start()

    def on_validation_start(self) -> None:
        """In a distributed run, let ranks without pictures keep in step with those that have some."""
        if self.trainer.world_size > 1 and self._blank_picture is None:
            self._blank_picture = BlankPicture(self.backbone, self.processor)

    on_test_start = on_predict_start = on_validation_start

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

    def configure_model(self) -> None:
        """Shard the weights where the strategy has a device mesh (ModelParallelStrategy); once."""
        mesh = self.device_mesh
        if mesh is None or isinstance(self.backbone.base_model, FSDPModule):
            return
        trainer = self.trainer
        options = getattr(trainer.strategy, "sharding", None) or ShardingOptions()
        heads = [module for name, module in self.named_children() if name == "head"]
        shard(self.backbone, heads, data_mesh(mesh, options, trainer.num_nodes), options, trainer.precision)

    @property
    def is_partial(self) -> bool:
        """Whether checkpoints hold trained weights alone."""
        return self.backbone_options.lora is not None or self.backbone_options.quantization is not None

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
        if not self.is_partial or "state_dict" not in checkpoint:
            return
        stored = checkpoint["state_dict"]
        known = dict(self.named_parameters()) | dict(self.named_buffers())
        missing, extra = sorted(self._trained_names() - set(stored)), sorted(set(stored) - set(known))
        if missing or extra:
            raise ValueError(
                f"the checkpoint was made with other backbone options: it lacks {len(missing)} trained weights "
                f"{missing[:3]} and holds {len(extra)} unknown ones {extra[:3]}; give the backbone options of its run"
            )
