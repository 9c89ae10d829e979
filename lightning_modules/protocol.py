"""How a reward model reads a response, and the file beside its weights that says so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.conversation.messages import CLASS_TOKENS, DEFAULT_SYSTEM_PROMPT, ImageLayout
from datamodules.storage.files import atomic_write_text, parse_json_line
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.model.backbone import ImageBackend

Objective = Literal["value", "advantage", "outcome", "soft", "regression"]
PROTOCOL_FILE = "process_reward_model.json"

_VALUES = {"value": (1.0, 0.0), "advantage": (1.0, 0.0, -1.0)}


def _label_kind(objective: str) -> str:
    """Key of :data:`datamodules.conversation.messages.CLASS_TOKENS`."""
    return "advantage" if objective == "advantage" else "value"


def class_values(objective: str) -> tuple[float, ...]:
    """What each class token is worth, best first; the score of a step is the mean under its probabilities."""
    return _VALUES[_label_kind(objective)]


@dataclass(frozen=True)
class Protocol:
    """How a reward model reads a response; stored beside its weights.

    Attributes:
        objective: ``value``: a step is right if its Monte Carlo score exceeds the threshold. ``outcome``: the same
            of the response as a whole, read as one step. ``soft`` and ``regression``: the score itself is learnt, by
            cross-entropy or squared error. ``advantage``: whether the score rose, stayed or fell with the step.
        threshold: On the Monte Carlo score.
        system_prompt: The system turn; empty for none.
        max_steps: Longer responses have neighbouring steps merged.
        aggregation: From step scores to the response score; ``product`` needs scores that are not negative.
        step_threshold: From which score, in :attr:`score_range`, on a step counts as judged correct, as chosen by
            :class:`lightning_modules.callbacks.process_bench.ProcessBench`; None if none was chosen.
        step_threshold_chosen_on: Name of the data that it was chosen on.
        class_tokens: Texts of the class tokens, best first, each a single token of the tokenizer; the first one also
            stands in past assistant turns. By default ``+`` and ``-``, for ``advantage`` ``+``, ``=`` and ``-``.
        image_layout: Where the images of a question stand that does not say so itself.
        image_backend: What resizes images, see :func:`lightning_modules.model.backbone.load_processor`.

    Raises:
        ValueError: If a setting is out of range, or two do not go together.
    """

    objective: Objective
    threshold: float
    system_prompt: str
    max_steps: int
    aggregation: Aggregation
    step_threshold: float | None = None
    step_threshold_chosen_on: str | None = None
    class_tokens: list[str] | None = None
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
        low, high = self.score_range
        if self.step_threshold is not None and not low <= self.step_threshold <= high:
            raise ValueError(f"step_threshold must be in [{low:g}, {high:g}], got {self.step_threshold}")
        if self.aggregation == "product" and low < 0:
            raise ValueError(
                f"aggregation 'product' needs scores in [0, 1]; those of objective {self.objective!r} may be negative: "
                f"choose mean, min, max or last"
            )
        tokens = self.class_tokens or list(CLASS_TOKENS[_label_kind(self.objective)])
        if len(tokens) != len(self.class_values):
            raise ValueError(
                f"objective {self.objective!r} needs {len(self.class_values)} class_tokens, best first, got {tokens}"
            )
        object.__setattr__(self, "class_tokens", tokens)

    @property
    def class_values(self) -> tuple[float, ...]:
        """See :func:`class_values`."""
        return class_values(self.objective)

    @property
    def score_range(self) -> tuple[float, float]:
        """Least and greatest score of a step: [0, 1], or [-1, 1] for ``advantage``."""
        return min(self.class_values), max(self.class_values)


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
        "class_tokens": None,
        "image_layout": "first",
        "image_backend": None,
    }
    path = Path(name_or_path) / PROTOCOL_FILE
    if path.is_file():
        stored = parse_json_line(path.read_bytes(), str(path))
        if not set(stored) <= set(settings):
            raise ValueError(f"{path}: must hold an object with keys {sorted(settings)}, got {stored!r}")
        settings |= stored
    kind = _label_kind(settings["objective"])
    settings["class_tokens"] = settings["class_tokens"] or list(CLASS_TOKENS[kind])
    changed = {name: value for name, value in given.items() if value not in (None, settings[name])}
    if changed.keys() - {"aggregation", "image_backend"}:
        # The stored step threshold was chosen on the scores of another protocol.
        changed |= {"step_threshold": None, "step_threshold_chosen_on": None}
    if _label_kind(changed.get("objective", settings["objective"])) != kind:
        # Labels of another kind have other tokens.
        changed["class_tokens"] = given.get("class_tokens")
    return Protocol(**settings | changed)
