"""The protocol of a reward model: how it reads a response, and the file beside its weights that says so.

The defaults of :class:`Protocol` are the only ones: they are the settings of the released VisualPRM scorer, except for
the system prompt, which is our own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from datamodules.conversation.messages import DEFAULT_SYSTEM_PROMPT, ImageLayout
from datamodules.conversation.reading_rules import (
    PastVerdicts,
    PictureRules,
    QuestionText,
    ReadingRules,
    WhiteSpace,
)
from datamodules.conversation.steps import DEFAULT_MAX_STEPS
from datamodules.storage.files import atomic_write_text, parse_json_line
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.model.backbone import ImageBackend
from lightning_modules.objectives.table import ObjectiveName, objective_named
from lightning_modules.scoring.calibration import Calibration

FROM_DATA = "from_data"
"""In place of a system prompt: the one that all training rows have, which only conversation rows do."""
PROTOCOL_FILE = "process_reward_model.json"


_AS_RELEASED = {
    "system_prompt": FROM_DATA,
    "image_layout": "in_question",
    "image_backend": "pil",
    "question_text": "as_asked",
    "pictures": "released",
    "white_space": "released",
    "past_verdicts": "labels",
}
PRESETS: dict[str, dict[str, Any]] = {
    "visualprm_400k": {**_AS_RELEASED, "max_steps": 12},
    "visualprm_400k_v1_1": {**_AS_RELEASED, "max_steps": 16},
}
"""Settings by the name of the released data that they belong to: how a model is trained and asked as its authors do."""
if TYPE_CHECKING:
    PresetName = str
else:
    # What the command line offers is read from this type.
    PresetName = Literal[tuple(PRESETS)]


@dataclass(frozen=True)
class Protocol:
    """How a reward model reads a response. It is stored beside the weights.

    Attributes:
        objective: What the model learns, an entry of :data:`lightning_modules.objectives.table.OBJECTIVES`.
        threshold: A step is right if its Monte Carlo score is above this; in [0, 1).
        system_prompt: The system turn; empty for none. :data:`FROM_DATA` until training has taken it from its rows.
        max_steps: Responses with more steps have consecutive ones merged.
        aggregation: From step scores to the response score; ``product`` needs scores that are not negative.
        step_threshold: A step counts as judged correct from this score on, within :attr:`score_range`. Chosen by
            :class:`lightning_modules.callbacks.process_bench.ProcessBench`; None if none was chosen.
        step_threshold_chosen_on: Name of the data that it was chosen on.
        class_tokens: Texts of the class tokens, best first, each a single token of the tokenizer. The first one also
            stands in past assistant turns. None takes those of the objective.
        image_layout: Where images stand if the question does not say so itself.
        image_backend: What resizes images, see :func:`lightning_modules.model.backbone.load_processor`.
        question_text: Rule of reading, as the next ones: see
            :class:`datamodules.conversation.reading_rules.ReadingRules`.
        pictures: Rule of reading.
        white_space: Rule of reading.
        past_verdicts: Rule of reading, for training.
        calibration: Map from step scores to calibrated ones, fitted by
            :class:`lightning_modules.callbacks.calibrate_scores.CalibrateScores`; a mapping of its attributes is taken,
            too. None for none.

    Raises:
        ValueError: If a setting is out of range, or two do not go together.
    """

    objective: ObjectiveName = "value"
    threshold: float = 0.0
    system_prompt: str = DEFAULT_SYSTEM_PROMPT
    max_steps: int = DEFAULT_MAX_STEPS
    aggregation: Aggregation = "mean"
    step_threshold: float | None = None
    step_threshold_chosen_on: str | None = None
    class_tokens: list[str] | None = None
    image_layout: ImageLayout = "first"
    image_backend: ImageBackend | None = None
    question_text: QuestionText = "bare"
    pictures: PictureRules = "ours"
    white_space: WhiteSpace = "ours"
    past_verdicts: PastVerdicts = "placeholder"
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        objective = objective_named(self.objective)
        if isinstance(self.calibration, Mapping):
            object.__setattr__(self, "calibration", Calibration(**self.calibration))
        if self.calibration is not None and self.score_range != (0.0, 1.0):
            raise ValueError(f"objective {self.objective!r} has scores that are no probabilities: no calibration")
        _ = self.reading_rules  # refuses unknown values
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
        tokens = self.class_tokens or list(objective.class_tokens)
        if len(tokens) != len(self.class_values):
            raise ValueError(
                f"objective {self.objective!r} needs {len(self.class_values)} class_tokens, best first, got {tokens}"
            )
        object.__setattr__(self, "class_tokens", tokens)

    @property
    def reading_rules(self) -> ReadingRules:
        """How data are read for the model."""
        return ReadingRules(self.question_text, self.pictures, self.white_space, self.past_verdicts)

    @property
    def class_values(self) -> tuple[float, ...]:
        """Value of each class token, best first; the score of a step is their mean under its probabilities."""
        return objective_named(self.objective).class_values

    @property
    def score_range(self) -> tuple[float, float]:
        """Lowest and highest possible score of a step: the lowest and highest class value."""
        return min(self.class_values), max(self.class_values)

    @property
    def response_as_one_step(self) -> bool:
        """Whether the whole response is read as one step (an outcome reward model)."""
        return objective_named(self.objective).response_as_one_step


def save_protocol(protocol: Protocol, folder: str | Path) -> None:
    """Write :data:`PROTOCOL_FILE` into ``folder``; settings that are None are left out."""
    stored = {name: value for name, value in asdict(protocol).items() if value is not None}
    atomic_write_text(Path(folder) / PROTOCOL_FILE, json.dumps(stored, indent=2) + "\n")


def _require_stored(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse what a folder stores with the name of its file, before settings that are given replace some of it."""
    try:
        own_tokens = objective_named(settings["objective"]).class_tokens
        Protocol(**{**settings, "class_tokens": settings["class_tokens"] or list(own_tokens)})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def resolve_protocol(name_or_path: str, given: dict[str, Any], preset: str | None = None) -> Protocol:
    """The protocol of a model: what is given, then the preset, then what its folder stores, then the defaults.

    A stored step threshold and calibration are dropped where something is given that changes the scores. Stored class
    tokens are dropped where an objective with other classes is given.

    Args:
        name_or_path: Folder, which may hold :data:`PROTOCOL_FILE`, or a name on the hub.
        given: Settings by name; None stands for "not given".
        preset: A name in :data:`PRESETS`.

    Raises:
        ValueError: If the stored file is not a protocol, or there is no such preset.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    given = PRESETS.get(preset or "", {}) | {name: value for name, value in given.items() if value is not None}
    settings: dict[str, Any] = {field.name: field.default for field in fields(Protocol)}
    path = Path(name_or_path) / PROTOCOL_FILE
    if path.is_file():
        stored = parse_json_line(path.read_bytes(), str(path))
        if not set(stored) <= set(settings):
            raise ValueError(f"{path}: must hold an object with keys {sorted(settings)}, got {stored!r}")
        settings |= stored
        _require_stored(settings, path)
    own_tokens = objective_named(settings["objective"]).class_tokens
    settings["class_tokens"] = settings["class_tokens"] or list(own_tokens)
    changed = {name: value for name, value in given.items() if value not in (None, settings[name])}
    if changed.keys() - {"aggregation", "image_backend"}:
        # They were chosen on the scores of another protocol.
        changed |= {"step_threshold": None, "step_threshold_chosen_on": None, "calibration": None}
    if objective_named(changed.get("objective", settings["objective"])).class_tokens != own_tokens:
        changed["class_tokens"] = given.get("class_tokens")
    return Protocol(**settings | changed)
