import json

import openpyxl
import pandas
import pytest
from PIL import Image

from datamodules.benchmarks import BENCHMARKS
from datamodules.benchmarks.table import encode_image, write_table
from datamodules.rollouts.prediction_tables import read_predictions, write_predictions
from datamodules.rollouts.records import read_rollouts, write_rollouts
from lightning_modules.callbacks.candidate_scores import CandidateScore, response_digest, write_candidate_scores
from tools.rollouts import main

GOLD = {"1": "4", "2": "B", "30": "0.5"}


@pytest.fixture
def tables(tmp_path):
    """MathVision with three questions, and MMMU with a row of the dev split."""
    picture = encode_image(Image.new("RGB", (4, 4)))
    rows = [
        {
            "index": index,
            "image": picture,
            "question": f"Question {index}?",
            "choices": "['x', 'y', 'z']" if gold == "B" else "[]",
            "answer": gold,
            "category": "algebra",
            "level": "1",
        }
        for index, gold in GOLD.items()
    ]
    write_table(tmp_path / "tables" / "MathVision.tsv", rows)
    mmmu = [
        {"index": str(i), "image": picture, "question": "Which?", "A": "p", "B": "q", "answer": "A", "split": split}
        for i, split in enumerate(["dev", "validation", "validation"])
    ]
    write_table(tmp_path / "tables" / "MMMU_DEV_VAL.tsv", mmmu)
    return tmp_path / "tables"


def predictions(path, texts, indices=GOLD, **columns):
    rows = [
        {
            "index": index,
            "question": f"Question {index}?",
            "answer": GOLD.get(index, "A"),
            **columns,
            "prediction": text,
        }
        for index, text in zip(indices, texts, strict=True)
    ]
    write_predictions(path, rows)
    return path


def run(command, *arguments, tables, benchmark="MathVision"):
    named = [] if command == "check" else ["--benchmark", benchmark]
    return main([command, *map(str, arguments), *named, "--benchmarks", str(tables)])


@pytest.mark.parametrize("kind", ["tsv", "xlsx"])
def test_prediction_files_become_samples(tables, tmp_path, capsys, kind):
    files = [
        predictions(tmp_path / f"0.{kind}", ["\\boxed{4}", "Answer: B", "\\boxed{1/2}"]),
        predictions(tmp_path / f"1.{kind}", ["\\boxed{5}", "", "Failed to obtain answer via API."]),
    ]
    output = tmp_path / "rollouts.jsonl"
    options = ["--policy", "InternVL2_5-8B", "--temperature", "0.7", "--output", output]
    assert run("import", *files, *options, tables=tables) == 0
    found = read_rollouts(output)
    assert [(r.question_id, r.sample_index, r.is_correct) for r in found] == [
        ("1", 0, True),
        ("2", 0, True),
        ("30", 0, True),
        ("1", 1, False),
        ("2", 1, False),
        ("30", 1, False),
    ]
    assert {r.policy for r in found} == {"InternVL2_5-8B"}
    assert {(r.temperature, r.top_p, r.max_new_tokens, r.seed) for r in found} == {(0.7, None, None, None)}
    printed = capsys.readouterr().out
    assert "3 of 3 questions, 6 rollouts, 2 a question; 50.0 % right" in printed
    assert "1 responses are empty and count as wrong" in printed
    assert "1 responses are failures of the tool" in printed
    assert run("check", output, "--candidates", "2", tables=tables) == 0
    assert "(0 graded anew)" in capsys.readouterr().out


def test_rows_that_are_not_scored_are_left_out_and_counted(tables, tmp_path, capsys):
    file = predictions(tmp_path / "p.xlsx", ["A", "A", "\\boxed{B}"], ["0", "1", "2"], answer="A")
    output = tmp_path / "r.jsonl"
    assert run("import", file, "--policy", "p", "--output", output, tables=tables, benchmark="MMMU") == 0
    assert [(r.question_id, r.is_correct) for r in read_rollouts(output)] == [("1", True), ("2", False)]
    assert "1 responses are to questions that are not scored" in capsys.readouterr().out


def test_indices_are_matched_as_numbers(tables, tmp_path):
    output = tmp_path / "r.jsonl"
    file = predictions(tmp_path / "p.tsv", ["\\boxed{4}", "B", "1"], ["001", "2.0", "30"], answer="")
    rows = [{**row.values, "answer": gold} for row, gold in zip(read_predictions(file), GOLD.values(), strict=True)]
    write_predictions(file, rows)
    assert run("import", file, "--policy", "p", "--output", output, tables=tables) == 0
    assert [r.question_id for r in read_rollouts(output)] == ["1", "2", "30"]


def test_predictions_on_another_table_are_refused(tables, tmp_path, capsys):
    output = tmp_path / "r.jsonl"
    file = predictions(tmp_path / "p.tsv", ["a", "b", "c"], answer="9")
    assert run("import", file, "--policy", "p", "--output", output, tables=tables) == 2
    printed = capsys.readouterr().err
    assert "column 'answer' differs from the benchmark's table in 3 of 3 rows" in printed
    assert f"{file}:2 (index 1): '9', the table has '4'" in printed
    unknown = predictions(tmp_path / "q.tsv", ["a", "b"], ["1", "77"])
    arguments = ["import", unknown, "--policy", "p", "--output", output]
    assert run(*arguments, "--on-bad-row", "error", tables=tables) == 2
    assert f"1 of 2 responses are to questions that MathVision in {tables} does not have: {unknown}:3" in (
        capsys.readouterr().err
    )
    assert not output.exists()
    assert run(*arguments, tables=tables) == 0
    assert [r.question_id for r in read_rollouts(output)] == ["1"]
    assert "1 responses are to questions that the benchmark does not have; they are left out" in (
        capsys.readouterr().out
    )


def test_plain_rows(tables, tmp_path, write_lines, capsys):
    path = write_lines(
        tmp_path / "plain.jsonl",
        [
            {"question_id": "1", "responses": ["\\boxed{4}", "\\boxed{5}"]},
            {"index": 2, "response": "B"},
            {"index": 2, "response": "C"},
            {"question_id": "30", "response": "second", "sample_index": 1},
            {"question_id": "30", "response": "\\boxed{0.5}", "sample_index": 0},
            {"question_id": "1", "response": "x", "benchmark": "MMMU"},
        ],
    )
    output = tmp_path / "r.jsonl"
    assert run("import", path, "--policy", "p", "--output", output, tables=tables) == 0
    assert sorted((r.question_id, r.sample_index, r.is_correct) for r in read_rollouts(output)) == [
        ("1", 0, True),
        ("1", 1, False),
        ("2", 0, True),
        ("2", 1, False),
        ("30", 0, True),
        ("30", 1, False),
    ]
    assert (
        run(
            "import",
            path,
            "--policy",
            "p",
            "--output",
            output,
            "--first-sample-index",
            "4",
            "--overwrite",
            tables=tables,
        )
        == 0
    )
    assert {r.sample_index for r in read_rollouts(output) if r.question_id == "1"} == {4, 5}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"response": "a"}, "one of the fields 'question_id', 'index' and 'id' must be there, found []"),
        ({"question_id": "1", "index": 1, "response": "a"}, "found ['question_id', 'index']"),
        ({"question_id": 1.5, "response": "a"}, "field 'question_id' must be a string or a whole number, got 1.5"),
        ({"question_id": "1"}, "one of the fields 'response' and 'responses' must be there, found []"),
        ({"question_id": "1", "response": None}, "field 'response' must be a string, got None"),
        ({"question_id": "1", "responses": ["a", 2]}, "field 'responses[1]' must be a string, got 2"),
        ({"question_id": "1", "responses": []}, "field 'responses' must be a list that is not empty"),
        ({"question_id": "1", "responses": ["a", "b"], "sample_index": 0}, "is of one response, but there are 2"),
        ({"question_id": "1", "response": "\ud800"}, "field 'response' must be valid Unicode"),
        ({"question_id": "1", "responses": ["\ud800"]}, "field 'responses[0]' must be valid Unicode"),
        ('{"question_id": "1"', "not valid JSON"),
    ],
)
def test_bad_plain_rows_are_named(tables, tmp_path, write_lines, capsys, caplog, row, message):
    """One bad row takes no other with it, unless that is asked for."""
    path = write_lines(tmp_path / "plain.jsonl", [{"question_id": "2", "response": "B"}, row])
    output = tmp_path / "r.jsonl"
    arguments = ["import", path, "--policy", "p", "--output", output]
    assert run(*arguments, "--on-bad-row", "error", tables=tables) == 2
    printed = capsys.readouterr().err
    assert f"{path}:2: " in printed
    assert message in printed
    assert not output.exists()
    assert run(*arguments, tables=tables) == 0
    assert [rollout.question_id for rollout in read_rollouts(output)] == ["2"]
    assert f"{path}: 1 rows cannot be used and are left out: {path}:2: " in caplog.text
    assert message in caplog.text


def test_files_of_two_kinds_are_refused(tables, tmp_path, write_lines, capsys):
    path = write_lines(tmp_path / "plain.jsonl", [{"question_id": "2", "response": "B"}])
    file = predictions(tmp_path / "p.tsv", ["a", "b", "c"])
    assert run("import", path, file, "--policy", "p", "--output", tmp_path / "r.jsonl", tables=tables) == 2
    assert "one kind at a time" in capsys.readouterr().err


@pytest.fixture
def rollouts(tables, tmp_path):
    files = [
        predictions(tmp_path / "0.tsv", ["=4", "B", "none"]),
        predictions(tmp_path / "1.tsv", ["\\boxed{4}", "C", "\\boxed{0.5}"]),
    ]
    assert run("import", *files, "--policy", "p", "--output", tmp_path / "r.jsonl", tables=tables) == 0
    return tmp_path / "r.jsonl"


def test_check_names_what_is_wrong(tables, tmp_path, rollouts, capsys):
    rows = read_rollouts(rollouts)
    broken = [json.loads(line) for line in rollouts.read_text().splitlines()][:-1]
    broken[0] |= {"is_correct": not broken[0]["is_correct"], "verdict_digest": None}
    path = tmp_path / "broken.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*broken, broken[1], {**broken[1], "question_id": "8"}]))
    fixed = tmp_path / "fixed.jsonl"
    capsys.readouterr()
    assert run("check", path, "--write", fixed, tables=tables) == 1
    printed = capsys.readouterr().out
    assert f"{path}:7 '8'" in printed
    assert f"{path}:6 repeats sample 0 of '2' at {path}:2" in printed
    assert "'30' lacks 1" in printed
    assert f"1 of 7 verdicts differ from those of the present rules: {path}:1 (question '1', sample 0)" in printed
    assert f"{fixed}: 5 rollouts with the present verdicts; 2 are left out" in printed
    kept = {(r.question_id, r.sample_index): r.is_correct for r in read_rollouts(fixed)}
    assert kept == {(r.question_id, r.sample_index): r.is_correct for r in rows[:-1]}


def test_check_with_a_model_finds_what_a_test_would_leave_out(tables, tmp_path, rollouts, tiny_checkpoint, capsys):
    lines = [json.loads(line) for line in rollouts.read_text().splitlines()]
    lines[1] |= {"response": "B<|end|>", "verdict_digest": None}
    rollouts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("check", rollouts, tables=tables) == 0
    assert run("check", rollouts, "--model", tiny_checkpoint, tables=tables) == 1
    assert f"1 questions cannot be read by this model: {rollouts}:2: step 0: the text holds the special token" in (
        capsys.readouterr().out
    )


def test_check_names_rows_that_cannot_be_used(tables, rollouts, capsys, caplog):
    rollouts.write_text(rollouts.read_text() + '{"benchmark": "MathVision"}\n')
    assert run("check", rollouts, tables=tables) == 1
    assert f"{rollouts}: 1 rows cannot be used and are left out: {rollouts}:7: field 'question_id' is missing" in (
        caplog.text
    )
    assert run("check", rollouts, "--on-bad-row", "error", tables=tables) == 2
    assert f"{rollouts}:7: field 'question_id' is missing" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["tsv", "xlsx"])
def test_export_of_a_sample(tables, tmp_path, rollouts, kind):
    output = tmp_path / f"p_MathVision.{kind}"
    assert run("export", rollouts, "--sample-index", "0", "--output", output, tables=tables) == 0
    rows = read_predictions(output)
    assert list(rows[0].values) == ["index", "question", "choices", "answer", "category", "level", "prediction"]
    assert [(row.get("index"), row.get("answer"), row.get("prediction")) for row in rows] == [
        ("1", "4", "=4"),
        ("2", "B", "B"),
        ("30", "0.5", "none"),
    ]
    frame = pandas.read_csv(output, sep="\t") if kind == "tsv" else pandas.read_excel(output)
    assert frame["index"].tolist() == [1, 2, 30]
    assert frame["prediction"].tolist() == ["=4", "B", "none"]
    again = tmp_path / "again.jsonl"
    assert run("import", output, "--policy", "p", "--output", again, tables=tables) == 0
    first = [r for r in read_rollouts(rollouts) if r.sample_index == 0]
    assert [{**vars(r), "where": ""} for r in read_rollouts(again)] == [{**vars(r), "where": ""} for r in first]


def test_export_of_what_the_reward_model_picked(tables, tmp_path, rollouts):
    scores = {("1", 0): 0.2, ("1", 1): 0.9, ("2", 0): 0.5, ("2", 1): 0.5, ("30", 0): 0.8, ("30", 1): 0.1}
    of_responses = {(r.question_id, r.sample_index): r.response for r in read_rollouts(rollouts)}
    path = tmp_path / "candidate_scores.jsonl"
    write_candidate_scores(
        path,
        [
            CandidateScore("MathVision", q, i, [score], score, response_digest(of_responses[q, i]))
            for (q, i), score in scores.items()
        ],
    )
    output = tmp_path / "picked.xlsx"
    assert run("export", rollouts, "--candidate-scores", path, "--output", output, tables=tables) == 0
    # Equal scores: the first candidate, as in Best-of-N.
    assert [row.get("prediction") for row in read_predictions(output)] == ["\\boxed{4}", "B", "none"]
    assert openpyxl.load_workbook(output).worksheets[0]["G2"].data_type == "s"
    one = tmp_path / "one.tsv"
    assert run("export", rollouts, "--candidate-scores", path, "--candidates", "1", "--output", one, tables=tables) == 0
    assert [row.get("prediction") for row in read_predictions(one)] == ["=4", "B", "none"]


def test_scores_of_other_responses_are_refused(tables, tmp_path, rollouts, capsys):
    path = tmp_path / "candidate_scores.jsonl"
    write_candidate_scores(
        path, [CandidateScore("MathVision", q, i, [0.5], 0.5, response_digest("other")) for q in GOLD for i in range(2)]
    )
    arguments = ["--candidate-scores", path, "--output", tmp_path / "p.tsv"]
    assert run("export", rollouts, *arguments, tables=tables) == 2
    assert "the score is that of another response" in capsys.readouterr().err


def test_export_refuses_what_it_does_not_have(tables, tmp_path, rollouts, capsys):
    arguments = ["--sample-index", "2", "--output", tmp_path / "p.tsv"]
    assert run("export", rollouts, *arguments, tables=tables) == 2
    assert "3 questions have no sample 2: '1', '2', '30'" in capsys.readouterr().err
    assert run("export", rollouts, *arguments, tables=tables, benchmark="MMMU") == 2
    assert "holds no rollouts of MMMU" in capsys.readouterr().err
    rows = [r for r in read_rollouts(rollouts) if r.question_id != "2"]
    write_rollouts(rollouts, rows)
    assert run("export", rollouts, "--sample-index", "0", "--output", tmp_path / "p.tsv", tables=tables) == 0
    assert "1 of 3 questions have no rollouts: '2'" in capsys.readouterr().out


def test_a_policy_s_rollouts_need_no_grading(tables):
    """What `predict` writes beside a verdict is what the check computes."""
    from datamodules.policy.benchmark_prompts import benchmark_prompts
    from datamodules.rollouts.grading import question_digest, verdict_digest

    benchmark = BENCHMARKS["MathVision"]()
    questions = {question.question_id: question for question in benchmark.read(tables)}
    for prompt in benchmark_prompts(tables, ["MathVision"]):
        question = questions[prompt.prompt_id.removeprefix("MathVision/")]
        assert prompt.verdict_digest("a") == verdict_digest(question_digest(benchmark, question), "a")


def test_responses_that_openpyxl_cut_are_pointed_out(tables, tmp_path, capsys):
    """pandas, and so VLMEvalKit, writes longer texts without their ends, where the final answers are."""
    texts = ["x" * 40_000 + r" \boxed{4}", "B", "0.5"]
    frame = pandas.DataFrame({"index": [1, 2, 30], "answer": list(GOLD.values()), "prediction": texts})
    frame.to_excel(tmp_path / "p.xlsx", index=False, engine="openpyxl")
    assert run("import", tmp_path / "p.xlsx", "--policy", "p", "--output", tmp_path / "r.jsonl", tables=tables) == 0
    assert [len(rollout.response) for rollout in read_rollouts(tmp_path / "r.jsonl")] == [32_767, 1, 3]
    printed = capsys.readouterr().out
    assert "1 responses fill their cells to the limit of 32767 characters" in printed
    assert "row 2 (index 1)" in printed
