"""The response files of benchmarks' authors, in their formats: what is read, and what is left out."""

import json
import shutil

import pytest
from real_files import REAL, needs_real_files

from datamodules.benchmarks import BENCHMARKS
from datamodules.rollouts.from_other_tools import Origin, import_responses
from datamodules.rollouts.records import read_rollouts
from datamodules.rollouts.responses import Response, read_responses
from tools.rollouts import main


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        # One object by id: the response itself, or an object that holds it.
        (
            "MMMU",
            {"validation_Art_1": "B", "validation_Math_2": 0.5},
            [("validation_Art_1", "B"), ("validation_Math_2", "0.5")],
        ),
        (
            "MMMU",
            [{"id": "validation_Art_1", "response": "(B)", "all_choices": ["A", "B"]}],
            [("validation_Art_1", "(B)")],
        ),
        ("MathVista", {"7": {"pid": "7", "answer": "gold", "response": "It is 3."}}, [("7", "It is 3.")]),
        ("MathVista", {"7": {"pid": "7", "answer": "gold", "response": None}}, [("7", "")]),
        ("LogicVista", {"v1_0": {"answer": " C", "reasoning": "none"}}, [("v1_0", " C")]),
        ("DynaMath", {"3": {"response": {"short answer": "2"}}}, [("3", '{"short answer": "2"}')]),
        ("WeMath", [{"ID": "2steps_1", "key": "2steps_1", "response": "B"}], [("2steps_1-2steps_1", "B")]),
        ("MathVerse-VO", [{"sample_index": "5", "answer": "D", "model_answer": "D:140"}], [("5", "D:140")]),
    ],
)
def test_formats(tmp_path, name, content, expected):
    path = write(tmp_path / "responses.json", content)
    found = read_responses([path], BENCHMARKS[name](), tmp_path)
    assert [(response.question_id, response.text) for response in found] == expected
    assert {response.sample_index for response in found} == {0}


def test_samples_are_numbered_over_files_and_subjects_are_joined(tmp_path):
    files = [
        write(tmp_path / "a" / "output.json", [{"id": "validation_Art_1", "response": "A"}]),
        write(tmp_path / "b" / "output.json", [{"id": "validation_Math_1", "response": "B"}]),
        write(tmp_path / "again" / "output.json", [{"id": "validation_Art_1", "response": "C"}]),
    ]
    found = read_responses(files, BENCHMARKS["MMMU"](), tmp_path, first_sample_index=2)
    assert [(response.question_id[11:], response.sample_index) for response in found] == [
        ("Art_1", 2),
        ("Math_1", 2),
        ("Art_1", 3),
    ]


def test_json_lines_by_id(tmp_path, write_lines):
    rows = [{"id": "1", "model": "m", "response": "60", "model_answer": "60", "correct": True}]
    found = read_responses([write_lines(tmp_path / "m.jsonl", rows)], BENCHMARKS["MathVision"](), tmp_path)
    assert found == [Response(f"{tmp_path}/m.jsonl:1", "1", 0, "60")]


def test_extractions_are_kept_and_judged(tmp_path, write_lines):
    """The official rules judge what the authors' model extracted; a later check comes to the same verdict."""
    metadata = {
        "task": "t",
        "skills": [],
        "category": "c",
        "context": "c",
        "grade": "g",
        "source": "s",
        "language": "e",
    }
    question = {"pid": "7", "question": "How many?", "choices": None, "precision": None, "answer": "3", "unit": None}
    question |= {"question_type": "free_form", "answer_type": "integer", "image": "images/7.jpg", "metadata": metadata}
    write(tmp_path / "MathVista" / "data" / "testmini.json", {"7": question})
    entry = question | {"query": "q", "response": "There are two, no: three.", "extraction": "3", "true_false": True}
    path = write(tmp_path / "output.json", {"7": entry})
    output = tmp_path / "rollouts.jsonl"
    options = ["--benchmarks", str(tmp_path), "--rules", "official"]
    command = ["import", str(path), "--benchmark", "MathVista", "--policy", "p", "--output", str(output)]
    assert main([*command, *options]) == 0
    (rollout,) = read_rollouts(output)
    assert (rollout.is_correct, rollout.extraction, rollout.extracted_answer) == (True, "3", "3")
    assert main(["check", str(output), *options]) == 0
    assert main([*command, "--benchmarks", str(tmp_path), "--overwrite"]) == 0
    assert read_rollouts(output)[0].rules == "ours"


def test_entries_that_cannot_be_used_take_no_other_with_them(tmp_path, caplog):
    content = {"1": {"response": "60"}, "2": {"text": "a"}, "3": [1], "4": {"response": True}}
    path = write(tmp_path / "r.json", content)
    found = read_responses([path], BENCHMARKS["MathVision"](), tmp_path)
    assert [response.question_id for response in found] == ["1"]
    assert f"{path}: 3 rows cannot be used and are left out" in caplog.text
    assert "r.json: '2': field 'response' is missing" in caplog.text
    with pytest.raises(
        ValueError, match=r"no responses to questions of MathVision: .*'2': field 'response' is missing"
    ):
        read_responses([write(path, {"2": {"text": "a"}})], BENCHMARKS["MathVision"](), tmp_path)
    path.write_text("[")
    with pytest.raises(ValueError, match=r"r\.json: not valid JSON"):
        read_responses([path], BENCHMARKS["MathVision"](), tmp_path)


def test_kinds_of_files_are_not_mixed(tmp_path):
    with pytest.raises(ValueError, match="one kind at a time"):
        read_responses([tmp_path / "a.json", tmp_path / "b.jsonl"], BENCHMARKS["MathVision"](), tmp_path)


def test_answers_alone_are_graded_but_not_asked_for(tmp_path):
    answers = {"validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "B"}}
    write(tmp_path / "MMMU" / "mmmu" / "answer_dict_val.json", answers)
    benchmark = BENCHMARKS["MMMU"](rules="official")
    (question,) = benchmark.read(tmp_path)
    assert [benchmark.grade(question, text).is_correct for text in ("(B)", "A")] == [True, False]
    with pytest.raises(ValueError, match="holds the answers of MMMU alone"):
        benchmark.read(tmp_path, images="needed")


@needs_real_files
@pytest.mark.parametrize(
    ("name", "folder", "file", "rules", "right", "total"),
    [
        # Published figures, in the files beside the responses.
        ("MathVision", "mathvision", "Qwen-VL-Max.jsonl", "official", 474, 3040),
        ("MathVista", "mathvista", "output_bard.json", "official", 348, 1000),
        ("MMMU", "mmmu", "llava1.5_13b_total_val_output.json", "official", 330, 900),
    ],
)
def test_published_figures(tmp_path, name, folder, file, rules, right, total):
    # As cloned, and the folder that holds the clone.
    (tmp_path / folder).mkdir()
    for path in (REAL / folder).glob("*.json*"):
        shutil.copy(path, tmp_path / folder)
    benchmark = BENCHMARKS[name](rules=rules)
    questions = benchmark.read(tmp_path, images="optional")
    responses = read_responses([tmp_path / folder / file], benchmark, tmp_path)
    found = import_responses(responses, benchmark, questions, tmp_path, Origin("a model"))
    assert (sum(rollout.is_correct for rollout in found.rollouts), len(found.rollouts)) == (right, total)


@needs_real_files
def test_logicvista_responses(tmp_path):
    benchmark = BENCHMARKS["LogicVista"]()
    questions = benchmark.read(REAL / "logicvista")
    responses = read_responses([REAL / "logicvista" / "LLAVA7B-answers.json"], benchmark, REAL)
    found = import_responses(responses, benchmark, questions, REAL, Origin("LLAVA7B"))
    assert (len(found.rollouts), found.not_scored) == (447, 1)
