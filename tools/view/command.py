r"""A page that shows what a reward model thinks: pictures, questions, solutions, steps coloured by score.

Examples::

    visualprm-view runs/my_test --output page.html                  # candidate_scores.jsonl and config.yaml are there
    visualprm-view rollouts.jsonl --benchmarks data/benchmarks --output page.html
    visualprm-view data/VisualPRM400K-v1.1-Raw --limit 500 --output page.html   # Monte Carlo score of every step
    visualprm-view runs/annotated --output page.html                # annotation_scores.jsonl: score beside Monte Carlo
    visualprm-view data/VisualProcessBench/test.jsonl --embed --output page.html

The page needs no network and no server: open it in a browser.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.storage.files import atomic_write_text, require_another_file, require_writable_file
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path, nonempty_text, whole_number
from tools.view.annotations import annotated_questions
from tools.view.best_of_n import candidate_questions
from tools.view.contents import Question
from tools.view.inputs import Inputs, find_inputs
from tools.view.judged import judged_questions
from tools.view.page_file import page_html
from tools.view.pictures import PictureStore
from tools.view.search_trees import searched_questions

DEFAULT_LIMIT = 2000


@tool("visualprm-view")
def main(arguments: list[str] | None = None) -> int:
    """Command line of the tool.

    Returns:
        0 if the page is written, 2 if something is wrong with what was given.
    """
    parser = ToolParser(
        prog="visualprm-view",
        description=(__doc__ or "").splitlines()[0],
        epilog="\n".join((__doc__ or "").splitlines()[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=nonempty_path,
        metavar="RUN_OR_FILE",
        help="folder of a run, scores, rollouts, annotations, ...",
    )
    parser.add_argument(
        "--output", type=nonempty_path, required=True, metavar="FILE", help="the page, such as page.html"
    )
    parser.add_argument(
        "--benchmarks", type=nonempty_path, metavar="FOLDER", help="of the tables; by default that of the run"
    )
    parser.add_argument(
        "--rollouts", type=nonempty_path, metavar="FILE", help="that were scored; by default those of the run"
    )
    parser.add_argument(
        "--visual-process-bench", type=nonempty_path, metavar="FOLDER", help="by default that of the run"
    )
    parser.add_argument("--image-root", type=nonempty_text, help="folder or zip archive of the pictures of annotations")
    parser.add_argument("--embed", action="store_true", help="keep the pictures in the page, not in a folder beside it")
    parser.add_argument("--max-side", type=whole_number(1), metavar="PIXELS", help="scale larger pictures down to this")
    parser.add_argument(
        "--limit", type=whole_number(1), default=DEFAULT_LIMIT, help="most questions (default: %(default)s)"
    )
    parser.add_argument("--title", help="of the page; by default the paths")
    given = parser.parse_args(arguments)
    require_writable_file(given.output)
    require_another_file(given.output, [*given.paths, *filter(None, [given.rollouts])])
    inputs = find_inputs(given.paths, given.benchmarks, given.rollouts, given.visual_process_bench, given.image_root)
    questions = _questions(inputs, given.limit)
    shown = evenly(questions, given.limit)
    title = given.title or ", ".join("/".join(path.absolute().parts[-2:]) for path in given.paths)
    write_page(given.output, title, shown, inputs.threshold, embed=given.embed, max_side=given.max_side)
    left_out = f" of {len(questions)}; --limit shows more" if len(shown) < len(questions) else ""
    print(f"{given.output}: {len(shown)} questions{left_out}, {sum(len(each.solutions) for each in shown)} solutions")
    return 0


def _questions(inputs: Inputs, limit: int) -> list[Question]:
    found: list[Question] = []
    if inputs.rollouts is not None:
        found += candidate_questions(inputs.rollouts, inputs.candidate_scores, inputs.benchmarks)
    if inputs.searches is not None:
        found += searched_questions(inputs.searches, inputs.benchmarks)
    if inputs.visual_process_bench is not None:
        found += judged_questions(inputs.visual_process_bench, inputs.step_scores)
    if inputs.annotations:
        found += annotated_questions(
            inputs.annotations, inputs.image_root, limit, inputs.annotation_scores, inputs.consensus
        )
    return found


def evenly(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most ``limit`` questions, spread evenly over all of them, in order."""
    if len(questions) <= limit:
        return list(questions)
    return [questions[place * len(questions) // limit] for place in range(limit)]


def write_page(
    path: Path,
    title: str,
    questions: Sequence[Question],
    threshold: float | None = None,
    *,
    embed: bool = False,
    max_side: int | None = None,
) -> None:
    """Write the page and its pictures; the page last, whole or not at all.

    Args:
        path: Of the page.
        title: Its title.
        questions: At least one.
        threshold: Least score of a step that counts as judged correct; the middle of the scores by default.
        embed: See :class:`tools.view.pictures.PictureStore`.
        max_side: Likewise.
    """
    pictures = PictureStore(path, embed, max_side)
    rows = [
        question.as_json(pictures.add(question.pictures, f"{question.benchmark} {question.question_id}"))
        for question in questions
    ]
    scores = [score for question in questions for solution in question.solutions for score in solution.scores]
    low = -1.0 if min(scores, default=0.0) < 0 else 0.0
    contents = {
        "title": title,
        "range": [low, 1.0],
        "threshold": (low + 1) / 2 if threshold is None else threshold,
        "questions": rows,
    }
    if pictures.problems:
        more = f", and {len(pictures.problems) - 1} more" if len(pictures.problems) > 1 else ""
        logging.getLogger(__name__).warning("pictures that cannot be shown: %s%s", pictures.problems[0], more)
    atomic_write_text(path, page_html(title, contents, pictures.places, embed))


def run() -> None:
    """Console entry point."""
    sys.exit(main())


if __name__ == "__main__":
    run()
