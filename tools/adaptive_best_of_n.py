"""What adaptive Best-of-N would have saved on stored candidates, and what abstaining would have gained.

Example::

    python -m tools.adaptive_best_of_n runs/quickstart/beta_binomial_test/candidate_scores.jsonl \
        --rollouts runs/quickstart/rollouts.jsonl
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.rollouts.records import Rollout, read_rollouts
from datamodules.storage.bad_rows import BadRows
from datamodules.storage.files import atomic_write_text, require_another_file, require_writable_file
from lightning_modules.callbacks.candidate_scores import CandidateScore, read_candidate_scores, response_digest
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path, number, whole_number
from lightning_modules.metrics.adaptive_best_of_n import (
    StoredCandidates,
    saving_at_equal_accuracy,
    selective_accuracies,
)
from lightning_modules.metrics.table import Cell, Table, print_tables

_COVERAGES = (1.0, 0.9, 0.75, 0.5, 0.25)


def stored_candidates(scores: Sequence[CandidateScore], rollouts: Sequence[Rollout]) -> StoredCandidates:
    """The candidates of all questions that have as many as most questions have.

    The uncertainty of a response is the mean of those of its steps, as if they were wrong together; its cost is the
    number of its words.

    Raises:
        ValueError: If there are no scores, or one has no rollout or is that of another response; names the question.
    """
    by_key = {(each.benchmark, each.question_id, each.sample_index): each for each in rollouts}
    questions: dict[tuple[str, str], list[tuple[float, float, bool, float]]] = {}
    for score in scores:
        key = (score.benchmark, score.question_id, score.sample_index)
        rollout = by_key.get(key)
        if rollout is None or score.response_digest not in ("", response_digest(rollout.response)):
            found = "there is no such rollout" if rollout is None else "its rollout is another response"
            raise ValueError(
                f"{key[0]} question {key[1]!r}, sample {key[2]}: {found}; give the rollouts that were scored"
            )
        unsure = float(np.mean(score.step_uncertainties)) if score.step_uncertainties else 0.0
        values = (score.response_score, unsure, rollout.is_correct, float(len(rollout.response.split())))
        questions.setdefault(key[:2], []).append(values)
    if not questions:
        raise ValueError("there are no scores; test a reward model on the rollouts first")
    sizes = [len(each) for each in questions.values()]
    most = max(set(sizes), key=sizes.count)
    table = np.array([each for each in questions.values() if len(each) == most], float)
    return StoredCandidates(table[..., 0], table[..., 1], table[..., 2].astype(bool), table[..., 3])


def adaptive_table(stored: StoredCandidates, zs: Sequence[float], seed: int) -> Table:
    """One row for each number of uncertainties that a safe score is below the score."""
    rows = []
    for z in zs:
        saving = saving_at_equal_accuracy(stored, z, seed)
        low, high = saving.difference
        rows.append(
            [
                Cell(f"{z:g}"),
                Cell(f"{100 * saving.full_accuracy:.1f}"),
                Cell(f"{100 * saving.accuracy:.1f}"),
                Cell(f"[{100 * low:+.1f}, {100 * high:+.1f}]"),
                Cell(f"{saving.candidates:.2f}"),
                Cell(f"{100 * saving.saved_candidates:.1f}"),
                Cell(f"{100 * saving.saved_cost:.1f}"),
            ]
        )
    count = stored.scores.shape[1]
    header = ["z", f"All {count}", "Adaptive", "Difference", "Candidates", "Candidates saved", "Words saved"]
    note = (
        "Sampling stops when score - z * uncertainty of a candidate reaches a bound, which is chosen on the other half "
        "of the questions to lose no accuracy there. In percent but for candidates; 95 % intervals from a bootstrap "
        "over questions. Without uncertainties all z are alike."
    )
    return Table(f"Adaptive Best-of-{count} on {len(stored.scores)} questions", header, rows, note)


def abstention_table(stored: StoredCandidates) -> Table:
    """Accuracy over the questions that are answered, by what decides about the others."""
    picks = stored.scores.argmax(axis=1)
    rows_of = np.arange(len(picks))
    correct = stored.correct[rows_of, picks].astype(float)
    doubts = {"1 - score of the pick": -stored.scores[rows_of, picks]}
    if stored.uncertainties.any():
        doubts["uncertainty of the pick"] = stored.uncertainties[rows_of, picks]
    rows = [
        [Cell(name), *(Cell(f"{100 * value:.1f}") for value in selective_accuracies(correct, doubt, _COVERAGES))]
        for name, doubt in doubts.items()
    ]
    header = ["Doubt", *(f"{100 * share:.0f} % answered" for share in _COVERAGES)]
    return Table("Accuracy of Best-of-N over the answered questions (%)", header, rows)


@tool("adaptive_best_of_n")
def main() -> int:
    """Command line of the tool; returns the exit status."""
    parser = ToolParser(prog="adaptive_best_of_n", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scores", type=nonempty_path, help="candidate_scores.jsonl of a test")
    parser.add_argument("--rollouts", type=nonempty_path, required=True, help="the rollouts that were scored")
    parser.add_argument(
        "--z", type=number(0), nargs="+", default=[0.0, 0.5, 1.0, 2.0], help="uncertainties to subtract"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of orders, halves and bootstrap")
    parser.add_argument("--output", type=nonempty_path, help="Markdown file to write, too")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    given = parser.parse_args()
    if given.output:
        require_writable_file(given.output)
        require_another_file(given.output, [given.scores, given.rollouts])
        if given.output.exists() and not given.overwrite:
            raise FileExistsError(f"{given.output} is there already; give another file or --overwrite")
    if not Path(given.scores).is_file():
        raise FileNotFoundError(f"{given.scores}: no such file; `visualprm test` of a reward model writes it")
    stored = stored_candidates(read_candidate_scores(given.scores), read_rollouts(given.rollouts, BadRows()))
    tables = [adaptive_table(stored, given.z, given.seed), abstention_table(stored)]
    if given.output:
        atomic_write_text(given.output, "\n".join(table.to_markdown() for table in tables))
    print_tables(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
