"""How a reward model reads a response, and the file beside its weights that says so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.files import atomic_write_text, parse_json_line
from datamodules.process.conversation import DEFAULT_SYSTEM_PROMPT, ImageLayout
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.model.backbone import ImageBackend

Objective = Literal["value", "outcome"]
PROTOCOL_FILE = "process_reward_model.json"


@dataclass(frozen=True)
class Protocol:
    """How a reward model reads a response; stored beside its weights.

    Attributes:
        objective: ``value``: a step is right if its Monte Carlo score exceeds the threshold. ``outcome``: the same
            of the response as a whole, read as one step.
        threshold: On the Monte Carlo score.
        system_prompt: The system turn; empty for none.
        max_steps: Longer responses have neighbouring steps merged.
        aggregation: From step scores to the response score.
        step_threshold: From which score in [0, 1] on a step counts as judged correct, as chosen by
            :class:`lightning_modules.callbacks.process_bench.ProcessBench`; None if none was chosen.
        step_threshold_chosen_on: Name of the data that it was chosen on.
        image_layout: Where the images of a question stand that does not say so itself.
        image_backend: What resizes images, see :func:`lightning_modules.model.backbone.load_processor`.
    """

    objective: Objective
    threshold: float
    system_prompt: str
    max_steps: int
    aggregation: Aggregation
    step_threshold: float | None = None
    step_threshold_chosen_on: str | None = None
    image_layout: ImageLayout = "first"
    image_backend: ImageBackend | None = None

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise ValueError(f"objective must be one of {get_args(Objective)}, got {self.objective!r}")
        if self.aggregation not in get_args(Aggregation):
            raise ValueError(f"aggregation must be one of {get_args(Aggregation)}, got {self.aggregation!r}")
        if self.image_layout not in get_args(ImageLayout):
            raise ValueError(f"image_layout must be one of {get_args(ImageLayout)}, got {self.image_layout!r}")
        if self.image_backend not in (None, *get_args(ImageBackend)):
            raise ValueError(f"image_backend must be one of {get_args(ImageBackend)}, got {self.image_backend!r}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {self.threshold}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")
        if self.step_threshold is not None and not 0 <= self.step_threshold <= 1:
            raise ValueError(f"step_threshold must be in [0, 1], got {self.step_threshold}")


def save_protocol(protocol: Protocol, folder: str | Path) -> None:
    """Write :data:`PROTOCOL_FILE` into ``folder``; settings that are None are left out."""
    stored = {name: value for name, value in asdict(protocol).items() if value is not None}
    atomic_write_text(Path(folder) / PROTOCOL_FILE, json.dumps(stored, indent=2) + "\n")


def resolve_protocol(name_or_path: str, given: dict[str, Any]) -> Protocol:
    """Complete the given settings by those stored with the checkpoint, then by the defaults.

    Raises:
        ValueError: If the stored file is not a protocol.
    """
    settings: dict[str, Any] = {
        "objective": "value",
        "threshold": 0.0,
        "system_prompt": DEFAULT_SYSTEM_PROMPT,
        "max_steps": 12,
        "aggregation": "mean",
        "step_threshold": None,
        "step_threshold_chosen_on": None,
        "image_layout": "first",
        "image_backend": None,
    }
    path = Path(name_or_path) / PROTOCOL_FILE
    if path.is_file():
        stored = parse_json_line(path.read_bytes(), str(path))
        if not set(stored) <= set(settings):
            raise ValueError(f"{path}: must hold an object with keys {sorted(settings)}, got {stored!r}")
        settings |= stored
    changed = {name: value for name, value in given.items() if value not in (None, settings[name])}
    if changed.keys() - {"aggregation", "image_backend"}:
        # The stored step threshold was chosen on the scores of another protocol.
        changed |= {"step_threshold": None, "step_threshold_chosen_on": None}
    return Protocol(**settings | changed)
