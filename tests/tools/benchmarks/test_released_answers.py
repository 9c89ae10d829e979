"""The comparison with published verdicts, on files that the test writes in the authors' formats."""

import json
import sys

import pytest

from tools.benchmarks import released_answers


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    common = {"question": "?", "level": 1, "subject": "counting"}
    asked = [
        common | {"id": "1", "options": [], "answer": "6"},
        common | {"id": "2", "options": ["3 cm", "4 cm"], "answer": "B"},
    ]
    answered = [
        {"id": "1", "response": "It is 6.", "correct": True},
        {"id": "2", "response": r"\boxed{4 \text{ cm}}", "correct": False},
    ]
    write_lines(tmp_path / "mathvision" / "test.jsonl", asked)
    write_lines(tmp_path / "mathvision" / "some-model.jsonl", answered)

    choice = {"question_type": "multi_choice", "answer_type": "text", "precision": None, "unit": None}
    choice |= {"choices": ["Yes", "No"], "answer": "No"}
    twins = choice | {"choices": ["7", "8", "8"], "answer": "8"}
    write_json(tmp_path / "mathvista" / "testmini.json", {"1": choice, "2": choice, "3": twins})
    told = {"query": "Is it red?", "true_false": True, "prediction": "No"}
    entries = {
        "1": told | {"response": "I cannot say.", "extraction": "not sure"},  # right by the nearest option alone
        "2": told | {"response": "I see nothing in it.", "extraction": "B"},
        "3": told | {"response": "The answer is (C).", "extraction": "C", "prediction": "8"},
    }
    write_json(tmp_path / "mathvista" / "output_model.json", entries)

    golds = {
        "a": {"question_type": "multiple-choice", "ground_truth": "C"},
        "b": {"question_type": "short-answer", "ground_truth": ["2/3", "0.67"]},
    }
    write_json(tmp_path / "mmmu" / "answer_dict_val.json", golds)
    write_json(tmp_path / "mmmu" / "model_val.json", {"a": "C", "b": "5"})

    write_json(
        tmp_path / "logicvista" / "dataset.json", {"v": {"question": "?", "answer": "A, C", "skill": ["spatial"]}}
    )
    write_json(tmp_path / "logicvista" / "M-answers.json", {"v": {"answer": "A and C"}})
    (tmp_path / "logicvista" / "M-accuracy-results.csv").write_text(",id,match?\n0,v,1\n", encoding="utf-8")
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["released_answers", *map(str, arguments)])
    released_answers.main()


def test_table_and_disagreements(folder, monkeypatch, capsys, tmp_path):
    run(monkeypatch, folder, "--disagreements", tmp_path / "out.jsonl")
    _, *lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines}
    # n, published %, official % (not under test here), ours %, agreement %, false accepts, false rejects, their share
    assert [cell for place, cell in enumerate(table["mathvision/some-model.jsonl"]) if place != 2] == [
        *("2", "50.00", "100.00", "50.00", "1", "0", "0.0%")
    ]
    # ours: only the third; the first is right by the nearest option alone, so it is no false reject
    assert [cell for place, cell in enumerate(table["mathvista/output_model.json"]) if place != 2] == [
        *("3", "100.00", "33.33", "33.33", "0", "1", "50.0%")
    ]
    assert table["mmmu/model_val.json"] == ["2", "50.00", "50.00", "50.00", "100.00", "0", "0", "0.0%"]
    assert table["logicvista/M-answers.json"][3:] == ["100.00", "100.00", "0", "0", "0.0%"]
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(item["file"], item["question_id"], item["ours"], item["named"]) for item in found] == [
        ("mathvision/some-model.jsonl", "2", True, True),
        ("mathvista/output_model.json", "1", False, False),
        ("mathvista/output_model.json", "2", False, True),
    ]


def test_a_letter_means_the_option_that_the_model_read(folder, monkeypatch, capsys):
    """The options of the benchmark are Yes, No; the model was asked when they stood in another order."""
    told = {"query": "Is it red?\nChoices:\n(A) No\n(B) Yes", "response": "The answer is (B).", "extraction": "B"}
    told |= {"true_false": True, "prediction": "No"}  # as the authors read the letter since
    write_json(folder / "mathvista" / "output_model.json", {"1": told})
    run(monkeypatch, folder, "--only", "mathvista")
    assert capsys.readouterr().out.splitlines()[1].split()[-3:] == ["0", "0", "-"]


def test_sums_of_a_folder(folder, monkeypatch, capsys):
    told = {"query": "Is it red?", "true_false": True, "prediction": "No", "response": "No.", "extraction": "No"}
    write_json(folder / "mathvista" / "output_other.json", {"1": told})
    run(monkeypatch, folder, "--only", "mathvista")
    *_, line = capsys.readouterr().out.splitlines()
    # of four responses, all published as right, ours two; of the three that are named one is rejected
    assert (line[:46].strip(), line.split()[3], line.split()[-5:]) == (
        "mathvista, all 2",
        "4",
        ["50.00", "50.00", "0", "1", "33.3%"],
    )


def test_only_some_files(folder, monkeypatch, capsys):
    run(monkeypatch, folder, "--only", "mmmu")
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_response_to_an_unknown_question_is_named(folder, monkeypatch):
    write_lines(folder / "mathvision" / "some-model.jsonl", [{"id": "9", "response": "6", "correct": True}])
    with pytest.raises(ValueError, match=r"some-model\.jsonl:1: there is no question '9'"):
        run(monkeypatch, folder)


def test_a_folder_without_response_files_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path)
    assert "holds none of the folders mathvision, mathvista, mmmu, logicvista" in capsys.readouterr().err
