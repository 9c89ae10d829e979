"""Base class of the modules that sample: what of a checkpoint they load, and how they hand it to their engine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn

from lightning_modules.generation.engine import GenerationEngine, has_own_model, needs_processor
from lightning_modules.model.backbone import connect_processor, load_processor, max_positions
from lightning_modules.model.backbone_module import BackboneModule
from lightning_modules.model.packed_forward import packing_obstacle
from lightning_modules.monte_carlo.given import GivenSolutions
from lightning_modules.protocol import PROTOCOL_FILE

logger = logging.getLogger(__name__)


class SamplingModule(BackboneModule):
    """A module whose `predict` samples texts with an engine.

    It loads its checkpoint, or only the processor, or nothing, as the engine needs it. Without weights it can do no
    more than `predict`.
    """

    engine: GenerationEngine
    given: GivenSolutions | None = None

    def load_for(self, engine: GenerationEngine) -> None:
        """Take an engine, and load what of ``model_name_or_path`` it needs.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If it cannot be loaded.
        """
        self.engine = engine
        name, has_weights = self.hparams["model_name_or_path"], not has_own_model(engine)
        # Modules that are not of this project read the processor, too; only data modules know that there may be none.
        self.processor = load_processor(name, with_model=has_weights) if needs_processor(engine) else None  # type: ignore[assignment]
        if has_weights:
            self.build()

    def setup(self, stage: str) -> None:
        """Give the data module the processor.

        Raises:
            ValueError: If the stage needs weights, and there are none.
        """
        if not self.has_weights and stage != "predict":
            raise ValueError(
                f"engine: {type(self.engine).__name__} samples from a model of its own, so that there are no weights "
                f"here to {TrainerFn(stage).value}; leave the engine out"
            )
        name = self.hparams["model_name_or_path"]
        if self.has_weights and stage == "predict" and (Path(name) / PROTOCOL_FILE).is_file():
            logger.warning("%s is a reward model, trained to judge solutions and not to write them", name)
        facts = (packing_obstacle(self.backbone), max_positions(self.backbone.config)) if self.has_weights else ()
        connect_processor(self, *facts)

    def attach_engine(self) -> None:
        """Hand the model as it is now to the engine; before every batch."""
        self.engine.attach(self.backbone if self.has_weights else None, self.processor)  # type: ignore[arg-type]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See :meth:`BackboneModule.on_load_checkpoint`.

        Raises:
            ValueError: Also if the weights would be of no use.
        """
        if not self.has_weights:
            raise ValueError(
                f"engine: {type(self.engine).__name__} samples from a model of its own, which a checkpoint does not "
                f"change; leave out either --ckpt_path or the engine"
            )
        super().on_load_checkpoint(checkpoint)

    def on_predict_end(self) -> None:
        """Say what the engine has counted, where it counts.

        Raises:
            ValueError: If solutions were given, and not one of them belongs to a prompt.
        """
        super().on_predict_end()
        if self.given is not None and self.trainer.world_size == 1:  # prompts of other ranks may have some
            self.given.require_some()
        usage = getattr(self.engine, "usage", None)
        if usage is not None:
            logger.info("%s: %s", type(self.engine).__name__, usage)
