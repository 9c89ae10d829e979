import json
import os
import resource
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datamodules.storage.files import (
    atomic_folder,
    atomic_write_bytes,
    atomic_write_jsonl,
    atomic_write_text,
    errors_name,
    read_jsonl,
    require_writable_folder,
)


def test_written_files_come_back_and_leave_nothing_beside_them(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    atomic_write_text(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    atomic_write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_link_to_a_file_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.txt").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a.txt")
    atomic_write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "a.txt").read_text() == "new"


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full_disk(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_lines_keep_their_line_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"a": "\\u00fc"}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": "ü"})]


def test_rows_survive_writing_and_reading(tmp_path):
    rows = [{"text": "line\nbreak", "value": 0.1}, {"text": "ü", "value": None}]
    atomic_write_jsonl(tmp_path / "a.jsonl", rows)
    assert [row for _, row in read_jsonl(tmp_path / "a.jsonl")] == rows


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_write_jsonl(tmp_path / "a.jsonl", [{"score": float("nan")}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1\n', "not valid JSON"),
        (b'{"a": "cut', "cut short while it was written"),
        (b"[1, 2]\n", "expected a JSON object, got list"),
        (b'"text"\n', "expected a JSON object, got str"),
        (b'{"a": "\xff\xfe"}\n', "not valid JSON"),
        (b"[" * 100_000 + b"\n", "not valid JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps({"a": 0}).encode() + b"\n" + line)
    with pytest.raises(ValueError, match=message) as error:
        list(read_jsonl(path))
    assert str(error.value).startswith(f"{path}:2: ")


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "folder"
    for name in ("a", "b"):
        with atomic_folder(path) as folder:
            (folder / name).write_text(name)
            assert not (path / name).exists()
        assert [file.name for file in path.iterdir()] == [name]
    assert [file.name for file in path.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_kill_while_a_folder_is_replaced_leaves_a_whole_one(tmp_path, monkeypatch, calls):
    """After each number of calls that move or remove something: one of the two contents is whole under a name."""
    path = tmp_path / "folder"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("a")
        (folder / "b").write_text("b")
    left = [calls]

    def counted(function):
        def replacement(*arguments, **options):
            if not left[0]:
                os._exit(9)  # as of kill -9: nothing is tidied up
            left[0] -= 1
            return function(*arguments, **options)

        return replacement

    if not (child := os.fork()):
        monkeypatch.setattr(Path, "rename", counted(Path.rename))
        monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        with atomic_folder(path) as folder:
            (folder / "c").write_text("c")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    contents = [sorted(file.name for file in each.iterdir()) for each in tmp_path.iterdir()]
    assert ["a", "b"] in contents
    assert ["c"] in contents
    if path.is_dir():
        assert sorted(file.name for file in path.iterdir()) in (["a", "b"], ["c"])


def test_a_folder_stays_as_it_was_when_writing_fails(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")

    class Stopped(Exception):
        pass

    def write_and_stop():
        with atomic_folder(path) as folder:
            (folder / "new").write_text("new")
            raise Stopped

    with pytest.raises(Stopped):
        write_and_stop()
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
    assert [file.name for file in path.iterdir()] == ["old"]


def test_a_full_disk_names_the_path(tmp_path):
    """Of a real limit: no file of this process may be larger than 1,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{tmp_path / 'a.bin'}'"):
            atomic_write_bytes(tmp_path / "a.bin", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


class SafetensorError(Exception):
    """As that of `safetensors`, which is no OSError."""


def test_errors_of_libraries_in_other_languages(tmp_path):
    with (
        pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/model'"),
        atomic_folder(tmp_path / "model"),
    ):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="unexpected pos"), errors_name(tmp_path / "a.pt"):
        raise RuntimeError("unexpected pos 64 vs 0")  # there is room, so that it is something else


def test_an_error_names_the_file_that_it_is_about(tmp_path):
    """What is read while a file is written has errors of its own."""
    with pytest.raises(FileNotFoundError, match=rf"'{tmp_path}/rows\.jsonl'"), atomic_folder(tmp_path / "model"):
        (tmp_path / "rows.jsonl").read_text()
    with pytest.raises(FileNotFoundError, match=rf"'{tmp_path}/model'"), atomic_folder(tmp_path / "model") as folder:
        (folder / "below" / "weights").write_text("")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=rf"'{tmp_path}/file/model'"):
        atomic_write_text(tmp_path / "file" / "model", "")


def test_a_folder_is_tried_without_a_trace(tmp_path):
    require_writable_folder(tmp_path / "new" / "folder" / "model")
    require_writable_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_commands_that_begin_at_once_may_try_the_same_new_folder(tmp_path):
    """One of them must not remove a folder that the other one has found there."""
    together = threading.Barrier(2)

    def attempt(number):
        together.wait()
        require_writable_folder(tmp_path / str(number) / "new" / "run")

    with ThreadPoolExecutor(2) as commands:
        for number in range(200):
            for done in [commands.submit(attempt, number) for _ in range(2)]:
                done.result()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/model"):
        require_writable_folder(tmp_path / "file" / "model")
    with pytest.raises(NotADirectoryError, match="is a file"):
        require_writable_folder(tmp_path / "file")
