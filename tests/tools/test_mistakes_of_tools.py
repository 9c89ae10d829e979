"""Mistakes of users of the tools: a status, one line, no traceback, and nothing written."""

import json
import os
import sys

import pytest

from tools import (
    build_process_bench,
    build_world,
    convert_internvl,
    data,
    export,
    make_tiny_model,
    quickstart,
    rollouts,
    seed_report,
)
from tools.view import command as view

HUGE = "9" * 40

MISTAKES = [
    (rollouts, "import --policy p --output {readable}/x rows.jsonl", 2, "required: --benchmark, --benchmarks"),
    (rollouts, "import {import} --output {file}/x rows.jsonl", 2, "{file}/x: {file} is a file, no folder"),
    (rollouts, "import {import} --output {folder} rows.jsonl", 2, "{folder}: is a folder; a file is to be written"),
    (rollouts, "import {import} --output {link} rows.jsonl", 2, "{link}: is a link to {nowhere}, which is not there"),
    (rollouts, "import {import} --output {link}/x f.jsonl", 2, "{link} is a link to {nowhere}, which is not there"),
    (rollouts, "import {import} --output /proc/none/x rows.jsonl", 2, "/proc/none/x: No such file or directory"),
    (rollouts, "check {link} --benchmarks {folder}", 2, "{link} is a link to {nowhere}, which is not there"),
    (rollouts, "check {file} --benchmarks {folder} --write {folder}", 2, "{folder}: is a folder"),
    (rollouts, "check {file} --bench {folder}", 2, "required: --benchmarks"),
    (data, "check {folder}/none", 2, "{folder}/none is neither"),
    (data, "check {file} --json {file}/x", 2, "{file}/x: {file} is a file, no folder"),
    (data, "extract {file} --output {folder}/out", 2, "{file}: not a zip archive"),
    (data, "", 2, "required: command"),
    (export, "{folder}/none --output {folder}/out", 1, "{folder}/none: there is no such checkpoint"),
    (export, "{file} --output {folder}/out", 1, "{file}: is no checkpoint of PyTorch, or was cut short"),
    (export, "{file} --output {file}/out", 1, "{file}/out: {file} is a file, no folder"),
    (convert_internvl, "{folder}/none {folder}/out", 2, "{folder}/none: no such folder"),
    (convert_internvl, "{folder} {file}/out", 2, "{file}/out: {file} is a file, no folder"),
    (
        convert_internvl,
        "{folder} {folder}/../out --max-tiles 0",
        2,
        "--max-tiles: must be a whole number from 1 to 1024, got '0'",
    ),
    (build_world, "--output {file}/x", 2, "{file}/x: {file} is a file, no folder"),
    (build_world, "--output {folder}/x --prompts -4", 2, "--prompts: must be a whole number of at least 1, got '-4'"),
    (
        build_world,
        "--output {folder}/x --prompts four",
        2,
        "--prompts: must be a whole number of at least 1, got 'four'",
    ),
    (make_tiny_model, "--output {folder}/x --texts {folder}/none", 2, "{folder}/none: No such file or directory"),
    # Numbers that would take forever, and files that no reader takes.
    (data, "check {file} --processes 0", 2, "--processes: must be a whole number from 1 to 1024, got '0'"),
    (data, "extract {file} --output {folder}/o --max-gibibytes inf", 2, "must be a number of at least 0, got 'inf'"),
    (
        rollouts,
        f"check {{file}} --benchmarks {{folder}} --candidates {HUGE}",
        2,
        "a whole number from 1 to 100000, got",
    ),
    (rollouts, "import {import} --output {folder}/x --temperature=-1 f", 2, "a number of at least 0, got '-1'"),
    (rollouts, "import {import} --output {folder}/x --top-p nan f", 2, "of at least 0 and at most 1, got 'nan'"),
    (export, "{file} --output {folder}/x --max-shard-size 5", 2, "must be a size such as 5GB"),
    (quickstart, "--seed -1", 2, "--seed: must be a whole number from 0 to 4294967295, got '-1'"),
    # An empty word is a variable of the shell that is not set, not the present folder.
    (data, "check {file} --image-root=", 2, "--image-root: is empty; is a variable of the shell not set?"),
    (rollouts, "import {import} --output= f", 2, "--output: is empty"),
    (rollouts, "import {import} --policy= --output {folder}/x f", 2, "--policy: is empty"),
    (export, "{file} --output {folder}/x --config=", 2, "--config: is empty"),
    # What is there is not replaced.
    (rollouts, "import {import} --output {file} f", 2, "{file} is there already; give another file or --overwrite"),
    (rollouts, "check {file} --benchmarks {folder} --write {file}", 2, "{file} is there already; give another file or"),
    (make_tiny_model, "--output {folder} --texts {file}", 2, "{folder} holds no exported model and is not replaced"),
    (build_world, "--output {folder}", 2, "{folder} holds a world already; give another folder or --overwrite"),
    (build_process_bench, "--world {folder} --rollouts {file} --output {folder}", 2, "{folder} holds samples already"),
    # Places that cannot be written.
    (data, "check {file} --json {folder}/" + "n" * 300, 2, "File name too long"),
    (build_process_bench, "--world {folder} --rollouts {file} --output {file}/x", 2, "{file} is a file, no folder"),
    (quickstart, "--output {file}/x", 2, "{file} is a file, no folder"),
    (view, "{folder}/none --output {folder}/page.html", 2, "{folder}/none: no such file or folder"),
    (view, "{file} --output {folder}/page.html", 2, "neither a row of scores"),
    (view, "{file} --output {file}/page.html", 2, "{file} is a file, no folder"),
    (view, "{file} --output {folder}/page.html --limit 0", 2, "--limit: must be a whole number of at least 1, got '0'"),
    (view, "{file}", 2, "required: --output"),
    (seed_report, "{folder}", 2, "the run has not come to its end"),
]


@pytest.mark.parametrize(
    ("program", "words", "status", "says"), MISTAKES, ids=[f"{m.__name__} {w}" for m, w, *_ in MISTAKES]
)
def test_one_line(program, words, status, says, tmp_path, monkeypatch, capsys):
    places = {"folder": tmp_path, "file": tmp_path / "rows.jsonl", "link": tmp_path / "link"}
    places |= {"nowhere": tmp_path / "nowhere", "readable": tmp_path}
    places["import"] = f"--benchmark MathVision --policy p --benchmarks {tmp_path}"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"a": 1}) + "\n")
    for name in ("truth.jsonl", "test.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(sys, "argv", ["program", *words.format(**places).split()])
    try:
        found = program.main()
    except SystemExit as end:
        found = end.code
    (line,) = capsys.readouterr().err.splitlines()
    assert says.format(**places) in line
    assert found == status
    assert sorted(os.listdir(tmp_path)) == before


def test_ctrl_c(monkeypatch, capsys):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "check_data", stopped)
    assert data.main(["check", "rows.jsonl"]) == 130
    assert capsys.readouterr().err == "visualprm-data: stopped (Ctrl-C)\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(*arguments, **options):
        raise KeyError("a bug")

    monkeypatch.setattr(data, "check_data", broken)
    with pytest.raises(KeyError, match="a bug"):
        data.main(["check", "rows.jsonl"])
