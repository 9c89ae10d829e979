"""Pages of everything that the command takes, from the files to what is in the page."""

import json
from dataclasses import replace
from zipfile import ZipFile

import pytest
import yaml
from PIL import Image

from datamodules.benchmarks.table import encode_image, write_table
from datamodules.rollouts.records import Rollout, write_rollouts
from lightning_modules.callbacks.annotation_scores import (
    ANNOTATION_SCORES,
    AnnotationScore,
    read_annotation_scores,
    write_annotation_scores,
)
from lightning_modules.callbacks.candidate_scores import CandidateScore, response_digest, write_candidate_scores
from lightning_modules.callbacks.step_scores import STEP_SCORES, write_step_scores
from lightning_modules.metrics.step_report import ScoredSolution
from tools.view.command import main

# Question: answer and step scores of each candidate.
CANDIDATES = {
    "1": [("4", [0.9, 0.8]), ("5", [0.2, 0.4]), ("4", [0.5, 0.5])],
    "2": [("7", [0.9, 0.9]), ("B", [0.1, 0.2]), ("B", [0.3, 0.3])],
}
GOLD = {"1": "4", "2": "B"}


def response_of(answer):
    return f"First.\n\nSo \\boxed{{{answer}}}."


@pytest.fixture
def run(tmp_path):
    """A folder with a test's scores, and its rollouts and benchmark where the configuration says."""
    table = [
        {
            "index": index,
            "image": encode_image(Image.new("RGB", (4, 4), "white")),
            "question": f"Question {index}?",
            "choices": "['x', 'y']" if gold == "B" else "[]",
            "answer": gold,
            "category": "algebra",
            "level": "1",
        }
        for index, gold in GOLD.items()
    ]
    write_table(tmp_path / "data" / "MathVision.tsv", table)
    rollouts, scores = [], []
    for question, candidates in CANDIDATES.items():
        for sample, (answer, steps) in enumerate(candidates):
            text = response_of(answer)
            # Sampling alone, no verdicts yet: they are those of the benchmark's rules.
            rollouts.append(
                Rollout("MathVision", question, sample, text, answer, False, "InternVL", 0.7, 1.0, 64, 0, prompt="Q?")
            )
            digest = response_digest(text)
            scores.append(CandidateScore("MathVision", question, sample, steps, sum(steps) / 2, digest))
    write_rollouts(tmp_path / "data" / "rollouts.jsonl", rollouts)
    write_candidate_scores(tmp_path / "runs" / "test" / "candidate_scores.jsonl", scores)
    data = {"benchmarks": "data", "rollouts": "data/rollouts.jsonl", "rules": None, "benchmark_options": None}
    config = {"data": {"class_path": "datamodules.evaluation.EvaluationDataModule", "init_args": data}}
    (tmp_path / "runs" / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "runs" / "test"


@pytest.fixture
def contents_of(tmp_path, read_page, capsys):
    def view(*arguments):
        page = tmp_path / "page.html"
        assert main([*map(str, arguments), "--output", str(page)]) == 0, capsys.readouterr().err
        return read_page(page).contents

    return view


def test_a_run(run, contents_of, tmp_path):
    found = contents_of(run)
    first, second = found["questions"]
    assert [first[name] for name in ("benchmark", "source", "id", "gold")] == ["MathVision", "InternVL", "1", ["4"]]
    assert first["text"].startswith("Question 1?")
    assert first["picks"] == {"model": 0, "vote": 0}
    assert second["picks"] == {"model": 0, "vote": 1}
    assert [each["is_right"] for each in first["solutions"]] == [True, False, True]
    assert [each["is_right"] for each in second["solutions"]] == [False, True, True]
    assert second["solutions"][1] == {
        "name": "1",
        "steps": ["First.", "So \\boxed{B}."],
        "scores": [0.1, 0.2],
        "score": pytest.approx(0.15),
        "answer": "B",
        "answer_class": 0,
        "is_right": True,
    }
    # 7 is none of the options, so by the benchmark's rules it is no answer and has no vote.
    assert (second["solutions"][0]["answer_class"], "answer" in second["solutions"][0]) == (-1, False)
    # Both questions have the same picture.
    assert first["pictures"] == second["pictures"] == [0]
    assert [(tmp_path / name).is_file() for name in found["pictures"]] == [True]


def test_a_folder_above_a_run_and_a_limit(run, contents_of):
    assert [each["id"] for each in contents_of(run.parent, "--limit", "1")["questions"]] == ["1"]


def test_rollouts_alone(run, contents_of, tmp_path):
    found = contents_of(tmp_path / "data" / "rollouts.jsonl")
    (first, _) = found["questions"]
    assert (first["text"], first["gold"], first["pictures"]) == ("Q?", [], [])
    assert first["picks"] == {"vote": 0}
    assert "scores" not in first["solutions"][0]


def test_scores_of_other_responses(run, tmp_path, capsys):
    path = tmp_path / "data" / "rollouts.jsonl"
    path.write_text(path.read_text().replace("First.", "Last."))
    assert main([str(run), "--output", str(tmp_path / "page.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "MathVision question '1', sample_index 0: the score is that of another response than at" in line
    assert not (tmp_path / "page.html").exists()


def test_merged_steps(tmp_path, contents_of):
    """Fourteen steps of which a model with at most twelve makes seven, as the released scorer does."""
    text = "\n\n".join(f"Step {number}." for number in range(14))
    rollout = Rollout("MMMU", "1", 0, text, None, False, "p", None, None, None, None)
    write_rollouts(tmp_path / "rollouts.jsonl", [rollout])
    write_candidate_scores(
        tmp_path / "s.jsonl", [CandidateScore("MMMU", "1", 0, [0.5] * 7, 0.5, response_digest(text))]
    )
    found = contents_of(tmp_path / "s.jsonl", tmp_path / "rollouts.jsonl")
    (solution,) = found["questions"][0]["solutions"]
    assert solution["steps"] == [f"Step {n}.\n\nStep {n + 1}." for n in range(0, 14, 2)]


@pytest.fixture
def judged(tmp_path):
    rows = [
        {"steps": ["a", "b"], "process_correctness": [1, -1]},
        {"steps": ["c"], "process_correctness": [0]},
    ]
    rows = [
        {
            "image": "",
            "question": "Why?",
            "answer": "7",
            "response": each,
            "policy_model": f"p{n}",
            "data_source": "MMMU",
        }
        for n, each in enumerate(rows)
    ]
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(json.dumps(row | {"image": []}) + "\n" for row in rows))
    return folder


def test_visual_process_bench_with_scores(judged, tmp_path, contents_of):
    scored = [
        ScoredSolution("elsewhere/test.jsonl:1", "MMMU", [0.75, 0.25], [1, -1]),
        ScoredSolution("elsewhere/test.jsonl:2", "MMMU", [0.5], [0]),
    ]
    write_step_scores(tmp_path / "run" / STEP_SCORES, scored)
    (tmp_path / "run" / "process_bench_test.json").write_text('{"threshold": 0.85}')
    found = contents_of(tmp_path / "run", "--visual-process-bench", judged)
    assert found["threshold"] == 0.85
    (question,) = found["questions"]
    assert (question["benchmark"], question["source"], question["gold"]) == ("VisualProcessBench", "MMMU", ["7"])
    assert question["solutions"] == [
        {"name": "p0", "steps": ["a", "b"], "scores": [0.75, 0.25], "labels": [1, -1], "score": 0.5, "is_right": False},
        {"name": "p1", "steps": ["c"], "scores": [0.5], "labels": [0], "score": 0.5, "is_right": True},
    ]


def test_step_scores_of_another_file(judged, tmp_path, capsys):
    write_step_scores(tmp_path / STEP_SCORES, [ScoredSolution("x:1", "MMMU", [0.75, 0.25], [1, 1])])
    assert main([str(tmp_path / STEP_SCORES), str(judged), "--output", str(tmp_path / "page.html")]) == 2
    assert "the scores of x:1 are of other steps than those at" in capsys.readouterr().err


def test_annotations(tmp_path, contents_of):
    def row(source, *steps):
        fields = [{"step": t, "score": c / n if n else 0, "num_mc_correct": c, "num_mc_total": n} for t, c, n in steps]
        return {"question": "How many?", "answer": 3, "source": source, "steps_with_score": fields}

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = [row("s", ("x", 2, 4), ("y", 0, 0)), row("s", ("z", 4, 4)), row("s", ("w", 1, 4)) | {"image": "a.png"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows) + "{broken\n")
    found = contents_of(tmp_path / "rows.jsonl")
    first, second = found["questions"]
    assert (first["benchmark"], first["source"], first["gold"]) == ("rows", "s", ["3"])
    assert first["solutions"] == [
        {"name": "row 1", "steps": ["x", "y"], "mc": [0.5, None], "counts": [[2, 4], [0, 0]]},
        {"name": "row 2", "steps": ["z"], "mc": [1.0], "counts": [[4, 4]], "is_right": True},
    ]
    assert second["pictures"] == [0]


@pytest.fixture
def scored_rows(tmp_path):
    """Fourteen steps that a model with at most twelve reads as seven, a row without scores, and one of two steps."""
    fourteen = [
        {"step": f"Step {n}.", "score": n % 4 / 4, "num_mc_correct": n % 4, "num_mc_total": 4} for n in range(14)
    ]
    two = [{"step": "a", "score": 1.0}, {"step": "b", "score": 0.0}]
    rows = [{"question": f"Question {n}?", "steps_with_score": each} for n, each in enumerate([fourteen, two, two])]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "rows.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    merged = [n % 4 / 4 for n in range(1, 14, 2)]  # the score of a merged step is that of its last one
    scores = [
        AnnotationScore("data/rows.jsonl:1", [0.5] * 7, merged),
        AnnotationScore("data/rows.jsonl:3", [0.25, 0.75], [1.0, 0.0]),
    ]
    write_annotation_scores(tmp_path / "runs" / "one" / ANNOTATION_SCORES, scores)
    (tmp_path / "runs" / "config.yaml").write_text("data: {init_args: {validation_annotations: data}}")
    return tmp_path / "runs"


def test_scores_beside_monte_carlo_scores(scored_rows, contents_of):
    first, second = contents_of(scored_rows)["questions"]  # the scores name the file, below the folder of the run
    (solution,) = first["solutions"]
    assert solution["steps"] == [f"Step {n}.\n\nStep {n + 1}." for n in range(0, 14, 2)]
    assert (solution["scores"], solution["score"]) == ([0.5] * 7, 0.5)
    assert solution["mc"] == [0.25, 0.75, 0.25, 0.75, 0.25, 0.75, 0.25]
    assert solution["counts"] == [[1, 4], [3, 4], [1, 4], [3, 4], [1, 4], [3, 4], [1, 4]]
    assert second["id"] == "row 3"
    assert second["solutions"] == [
        {
            "name": "row 3",
            "steps": ["a", "b"],
            "scores": [0.25, 0.75],
            "mc": [1.0, 0.0],
            "counts": [None, None],
            "score": 0.5,
            "is_right": False,
        }
    ]


def test_scores_of_rows_in_an_archive_that_was_moved(scored_rows, tmp_path, contents_of):
    path = tmp_path / "elsewhere" / "annotations.zip"
    path.parent.mkdir()
    with ZipFile(path, "w") as archive:
        archive.write(tmp_path / "data" / "rows.jsonl", "annotations/rows.jsonl")
    found = contents_of(scored_rows, path)
    assert [each["id"] for each in found["questions"]] == ["row 1", "row 3"]
    scores = read_annotation_scores(scored_rows / "one" / ANNOTATION_SCORES)
    named = [replace(each, sample_id=each.sample_id.replace("data", f"{path}/annotations")) for each in scores]
    write_annotation_scores(scored_rows / "one" / ANNOTATION_SCORES, named)
    (tmp_path / "data" / "rows.jsonl").unlink()
    assert len(contents_of(scored_rows)["questions"]) == 2


def test_scores_of_other_rows(scored_rows, tmp_path, capsys):
    path, page = tmp_path / "data" / "rows.jsonl", tmp_path / "page.html"
    path.write_text(path.read_text().replace('"score": 0.0}', '"score": 0.5}'))
    assert main([str(scored_rows), str(path), "--output", str(page)]) == 2
    assert f"data/rows.jsonl:3: the scores are of other steps than those at {path}:3" in capsys.readouterr().err
    path.rename(path.with_name("others.jsonl"))
    assert main([str(scored_rows), str(path.with_name("others.jsonl")), "--output", str(page)]) == 2
    assert "none of its rows is in" in capsys.readouterr().err


def test_two_runs_at_once(run, tmp_path, capsys):
    other = tmp_path / "runs" / "other" / "candidate_scores.jsonl"
    other.parent.mkdir()
    other.write_text((run / "candidate_scores.jsonl").read_text())
    arguments = ["--output", str(tmp_path / "page.html")]
    assert main([str(tmp_path / "runs"), *arguments]) == 2
    assert (
        f"holds the scores of 2 tests; give the folder of one of them: {other.parent}, {run}" in capsys.readouterr().err
    )
    assert main([str(run), str(other), *arguments]) == 2
    assert "are both candidate scores; a page shows one of them" in capsys.readouterr().err
