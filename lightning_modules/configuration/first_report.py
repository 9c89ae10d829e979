"""One of the processes of a run reports a failure in the terminal, the first one; the others have their logs.

All ranks of a run meet the same mistake, or the end of the first one that failed. Processes of one machine find out by
a file in the folder for temporary files; those of other machines report for themselves.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

# Of the launcher: `torchrun`, Lightning, SLURM.
_NAMES_OF_A_RUN = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
)

_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def has_several_processes() -> bool:
    """Whether this process belongs to a run of several, by the environment."""
    return any(_number(name) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS"))


def is_first_to_report() -> bool:
    """Whether no other process of this run, on this machine, has reported a failure; from now on this one has.

    Always true in a run of one process, and where no file can be written.
    """
    if not has_several_processes():
        return True
    import fcntl

    names = [f"{name}={os.environ.get(name, '')}" for name in _NAMES_OF_A_RUN]
    name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"visualprm-{os.getuid()}-{name}.failure"
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    except OSError:
        return True
    with os.fdopen(handle, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        reported = file.read()
        # A run of before may have had the same names.
        if _is_time(reported) and float(reported) >= _start_of_process():
            return False
        file.seek(0)
        file.truncate()
        file.write(f"{time.time()}")
    return True


def _start_of_process() -> float:
    """When this process began, as :func:`time.time`; psutil's own figure is off by up to a second."""
    import psutil

    begin = psutil.Process().create_time() - psutil.boot_time()
    return time.time() - (time.clock_gettime(_SINCE_BOOT) - begin)


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else 1


def _is_time(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
