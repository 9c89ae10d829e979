import sys

import fork_server

from datamodules.storage import worker_processes
from tools import build_world


def test_the_command_writes_the_world_that_the_function_writes(tiny_world, tmp_path, monkeypatch, capsys):
    """Byte for byte, so that a world can be written again anywhere."""
    sizes = "--statements 24 --demonstrations 64 --prompts 16 --validation 8 --benchmark-questions 10 --seed 0"
    sizes = [*sizes.split(), "--processes", "2"]
    monkeypatch.setattr(worker_processes.multiprocessing, "get_context", lambda method: fork_server.context())
    monkeypatch.setattr(sys, "argv", ["build_world", "--output", str(tmp_path), *sizes])
    build_world.main()
    assert str(tmp_path) in capsys.readouterr().out
    written, expected = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path, tiny_world)
    )
    assert written == expected
    assert sum(path.suffix == ".tsv" for path in written) == 7
