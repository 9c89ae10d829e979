"""Ctrl-C while the commands import: what is slow to import is replaced by a module that waits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
WAITS = "import sys, time\nprint('waits', flush=True)\ntime.sleep(600)\n"


def interrupted(folder, module, slow, **variables):
    """Status and lines on stderr of a command to which Ctrl-C comes when it imports `slow`."""
    (folder / f"{slow}.py").write_text(WAITS)
    command = [sys.executable, "-m", module, *(["validate"] if module == "lightning_modules.cli" else [])]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so do its children, such as these tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.splitlines()


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("lightning_modules.cli", "torch"),
        pytest.param("tools.data", "rich", marks=pytest.mark.thorough),
        pytest.param("tools.build_world", "numpy", marks=pytest.mark.thorough),
    ],
)
def test_one_line(tmp_path, module, slow):
    status, lines = interrupted(tmp_path, module, slow)
    assert (status, lines) == (-signal.SIGINT, ["stopped (Ctrl-C)"])


def test_all_of_it_on_demand(tmp_path):
    status, lines = interrupted(tmp_path, "tools.data", "rich", VISUALPRM_DEBUG="1")
    assert status == -signal.SIGINT
    assert "Traceback" in lines[0]
    assert lines[-1] == "KeyboardInterrupt"


def test_programs_that_import_ours_keep_their_tracebacks():
    program = "import sys, tools, lightning_modules.cli; print(sys.excepthook is sys.__excepthook__)"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "True\n"
