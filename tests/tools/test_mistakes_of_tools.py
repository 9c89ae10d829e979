"""Mistakes of users of the tools: a status, one line, no traceback, and nothing written."""

import json
import os
import sys

import pytest

from tools import build_world, convert_internvl, data, export, make_tiny_model, rollouts, seed_report
from tools.view import command as view

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
    (convert_internvl, "{folder} {folder}/../out --max-tiles 0", 2, "max_tiles must be at least 1, got 0"),
    (build_world, "--output {file}/x", 2, "{file}/x: {file} is a file, no folder"),
    (build_world, "--output {folder}/x --prompts -4", 2, "prompts must be at least 1, got -4"),
    (build_world, "--output {folder}/x --prompts four", 2, "invalid int value: 'four'"),
    (make_tiny_model, "--output {folder}/x --texts {folder}/none", 2, "{folder}/none: No such file or directory"),
    (view, "{folder}/none --output {folder}/page.html", 2, "{folder}/none: no such file or folder"),
    (view, "{file} --output {folder}/page.html", 2, "neither a row of candidate scores"),
    (view, "{file} --output {file}/page.html", 2, "{file} is a file, no folder"),
    (view, "{file} --output {folder}/page.html --limit 0", 2, "--limit: must be at least 1, got 0"),
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
