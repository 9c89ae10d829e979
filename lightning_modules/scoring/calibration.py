"""Calibration of step scores: a map from scores to probabilities that a step is right, stored with the model.

It is fitted on labelled steps that the model was not trained on, by
:class:`lightning_modules.callbacks.calibrate_scores.CalibrateScores`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from lightning_modules.metrics.step_threshold import OneLabelError
from lightning_modules.objectives.step_loss import step_scores

CalibrationMethod = Literal["temperature", "isotonic"]
TEMPERATURES = (0.01, 100.0)
"""Bounds of a fitted temperature: labels that the scores part without an error would have temperature 0."""
_SATURATED = 1e-7  # scores are float32: nearer to 0 and 1 than this they tell nothing


@dataclass(frozen=True)
class Calibration:
    """A fitted map from step scores in [0, 1] to step scores in [0, 1] that never turns their order round.

    Attributes:
        method: ``temperature`` divides the class logits by one number (Guo et al. 2017, arXiv 1706.04599); the order of
            steps stays. ``isotonic`` is the best map that does not fall (Zadrozny and Elkan 2002); steps whose scores
            it maps to one value tie.
        fitted_on: Name of the data that it was fitted on.
        temperature: Of ``temperature``; above 1 scores move towards 0.5.
        scores: Of ``isotonic``: ascending scores, between which the map is linear and beyond which it is constant.
        values: Of ``isotonic``: what these scores become; never falling, in [0, 1].

    Raises:
        ValueError: If these are no such map.
    """

    method: CalibrationMethod
    fitted_on: str = ""
    temperature: float = 1.0
    scores: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.method not in get_args(CalibrationMethod):
            raise ValueError(f"calibration.method must be one of {get_args(CalibrationMethod)}, got {self.method!r}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"calibration.temperature must be above 0, got {self.temperature}")
        if self.method == "temperature":
            return
        scores, values = np.array(self.scores), np.array(self.values)
        if not (len(scores) == len(values) > 0 and (np.diff(scores) > 0).all() and (np.diff(values) >= 0).all()):
            raise ValueError("calibration.scores must ascend and have as many calibration.values, which must not fall")
        if values[0] < 0 or values[-1] > 1:
            raise ValueError(f"calibration.values must be in [0, 1], got {values[0]} to {values[-1]}")

    def of_logits(self, logits: Tensor, class_values: tuple[float, ...]) -> Tensor:
        """Calibrated scores of class logits: (..., K) to (...)."""
        if self.method == "temperature":
            return step_scores(logits / self.temperature, class_values)
        return self.of_scores(step_scores(logits, class_values))

    def of_scores(self, scores: Tensor) -> Tensor:
        """Calibrated scores of uncalibrated ones, any shape; float32 scores near 0 and 1 are less exact than logits."""
        given = scores.detach().double().cpu().numpy()
        if self.method == "temperature":
            found = expit(_margins(given) / self.temperature)
        else:
            found = np.interp(given, self.scores, self.values)
        return torch.from_numpy(np.asarray(found)).to(scores)


def fit_calibration(scores: Tensor, is_right: Tensor, method: CalibrationMethod, fitted_on: str = "") -> Calibration:
    """Fit a calibration.

    Args:
        scores: (n,) uncalibrated scores in [0, 1].
        is_right: (n,) bool labels.
        method: ``temperature`` minimises the log loss, ``isotonic`` the squared error.
        fitted_on: Name of the data.

    Raises:
        OneLabelError: If all steps have one label, or there are none.
    """
    given, labels = scores.double().cpu().numpy(), is_right.cpu().numpy().astype(bool)
    if labels.all() or not labels.any():
        raise OneLabelError(f"a calibration needs right and wrong steps, found {labels.sum()} right of {labels.size}")
    if method == "temperature":
        return Calibration(method, fitted_on, temperature=_best_temperature(_margins(given), labels))
    # In float64 throughout: a score that is one step apart in float32 must not become equal.
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(given, labels.astype(np.float64))
    return Calibration(method, fitted_on, scores=fitted.X_thresholds_.tolist(), values=fitted.y_thresholds_.tolist())


def _margins(scores: np.ndarray) -> np.ndarray:
    return logit(scores.clip(_SATURATED, 1 - _SATURATED))


def _best_temperature(margins: np.ndarray, labels: np.ndarray) -> float:
    signed = np.where(labels, margins, -margins)

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -signed / np.exp(log_temperature)).mean())

    low, high = np.log(TEMPERATURES)
    # The loss is convex in the inverse of the temperature, so that there is one minimum.
    return float(np.exp(minimize_scalar(log_loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x))
