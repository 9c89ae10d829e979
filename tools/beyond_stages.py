"""The stages behind the quickstart that measure what is in experiments/beyond.

Each trains or tests a reward model on the annotation, the base model and the candidates of the run. None of them
changes what the quickstart has written.
"""

from __future__ import annotations

from pathlib import Path

from tools.quickstart_stages import Stage, tool, visualprm
from tools.table_stages import critic_stages

SHARES = (0.1, 0.25)
"""Of the rows, chosen by the balanced-information score and at random; arXiv 2602.04145 has the same shares."""
TRAININGS = ("beta_binomial", "step_kinds", "source_weights")
"""Overlays that train another reward model."""

_PROCESS = "process_reward_model"


def beyond_stages(run: Path) -> list[Stage]:
    """The stages, in order.

    Args:
        run: Folder of a run of the quickstart.
    """
    calibration, controls = run / "calibration", run / "picture_controls"
    todo = [
        Stage(
            "calibrate the scores",
            calibration / "calibration_validate.json",
            visualprm(
                "validate",
                _PROCESS,
                "../beyond/calibration",
                trainer__callbacks__update_model="false",
                trainer__callbacks__output_dir=calibration,
            ),
        ),
        Stage(
            "score with other pictures and with none",
            controls / "picture_controls_test.json",
            visualprm("test", _PROCESS, "../beyond/picture_controls", trainer__callbacks__output_dir=controls),
        ),
    ]
    for share in SHARES:
        for by in ("balanced_information", "random"):
            options = {"data__selection__share": share, "data__selection__by": by}
            todo += critic_stages(run, f"selection_{by}_{share:g}", [], **options)
    for name in TRAININGS:
        todo += critic_stages(run, name, [f"../beyond/{name}"])
    uncertain = run / "beta_binomial_test"
    adaptive = uncertain / "adaptive_best_of_n.md"
    scored = [uncertain / "candidate_scores.jsonl", "--rollouts", run / "rollouts.jsonl", "--z", 0, 1, 2]
    return [
        *todo,
        Stage("stop sampling early", adaptive, tool("adaptive_best_of_n", *scored, "--output", adaptive)),
    ]
