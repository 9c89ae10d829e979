"""The stages behind the quickstart that the paper's tables need: other critics, thresholds and temperatures.

Tables 2, 3, 6 and 7 come from the quickstart's own tests; these stages add what Tables 4 and 8 compare it with. All of
them use the annotation, the base model and the policy of the run.
"""

from __future__ import annotations

from pathlib import Path

from tools.quickstart_stages import Stage, visualprm

ABLATIONS = ("advantage", "early_stop")
"""Critics of Table 4, as in experiments/ablations."""
THRESHOLDS = (0.125, 0.25)
"""Table 8: Monte Carlo scores that a right step must exceed, of 8 continuations; the quickstart's is 0."""
TEMPERATURES = (0.3, 1.0, 1.3)
"""Table 8: of the candidates; the quickstart's is 0.7."""
CANDIDATES = 8
"""Of a question at each of these temperatures, as in the paper's table."""

_PROCESS, _TEST = "process_reward_model", "process_reward_model_test"


def table_stages(run: Path) -> list[Stage]:
    """The stages, in order.

    Args:
        run: Folder of a run of the quickstart.
    """
    todo = [stage for name in ABLATIONS for stage in critic_stages(run, f"ablation_{name}", [f"../ablations/{name}"])]
    for value in THRESHOLDS:
        todo += critic_stages(run, f"threshold_{value:g}", [], model__threshold=value)
    return todo + [stage for value in TEMPERATURES for stage in _temperature(run, value)]


def critic_stages(run: Path, name: str, overlays: list[str], **options: object) -> list[Stage]:
    """Train and test one more reward model.

    Args:
        run: Folder of a run of the quickstart.
        name: Of the reward model, and of its folder.
        overlays: Configurations over those of the quickstart, by their path from there, without ending.
        options: Options of both commands, with two underscores for a point.
    """
    options["run_name"] = name
    return [
        Stage(
            f"train the reward model {name}",
            run / name,
            visualprm("fit", _PROCESS, *overlays, **options),
            {"VISUALPRM_VALIDATIONS": "1"},  # at the end of the epoch alone: the learning curve is the quickstart's
        ),
        Stage(
            f"compare the ways to choose by {name}",
            run / f"{name}_test" / "best_of_n_test.json",
            visualprm("test", _PROCESS, *overlays, _TEST, **options),
        ),
    ]


def _temperature(run: Path, value: float) -> list[Stage]:
    """Sample candidates at another temperature and choose from them by the quickstart's reward model."""
    rollouts, name = run / f"rollouts_{value:g}.jsonl", f"temperature_{value:g}"
    sampling = {"model__num_samples": CANDIDATES, "model__sampling__temperature": value}
    return [
        Stage(
            f"sample {CANDIDATES} solutions a question at temperature {value:g}",
            rollouts,
            visualprm("predict", "rollouts", run_name=rollouts.stem, **sampling),
        ),
        Stage(
            f"choose from them at temperature {value:g}",
            run / f"{name}_test" / "best_of_n_test.json",
            visualprm(
                "test",
                "../paper/critic",
                "../paper/table8",
                run_name=name,
                model__model_name_or_path=run / _PROCESS,
                data__benchmarks=run / "world" / "benchmarks",
                data__rollouts=rollouts,
                data__num_workers=0,
                trainer__accelerator="cpu",
                trainer__devices=1,
            ),
        ),
    ]
