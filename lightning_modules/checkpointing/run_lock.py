"""A folder that one run at a time writes to."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a run waits for another one, which may have been killed and be about to vanish."""
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class RunLock:
    """Keeps a second run out of a folder, such as a job that was submitted twice.

    It is a lock of the operating system on a file beside the folder, so it ends with the process, however that ends;
    file systems of clusters keep it over all nodes (NFS does; Lustre where it is mounted with `flock`).

    Args:
        folder: The lock is ``.NAME.lock`` beside it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder.with_name(f".{folder.name}.lock")
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Take it, waiting for up to :data:`PATIENCE` seconds; one process of a run does so.

        Raises:
            RuntimeError: If another process has it; says which.
        """
        if self._file is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                # Of this process alone: children do not keep it as they would keep that of flock.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    logger.warning("%s: no locks on this file system (%s); start only one run", self._path, error)
                    break
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    file.close()
                    raise
                if time.monotonic() > deadline:
                    file.seek(0)
                    found = file.read().strip() or "another process"
                    file.close()
                    raise RuntimeError(
                        f"{self._path}: another run writes to this folder now: {found}; end it first, or give this "
                        f"run a folder of its own"
                    ) from error
            time.sleep(min(1.0, PATIENCE / 10))
        file.truncate(0)
        holder = {"host": socket.gethostname(), "process": os.getpid(), "slurm_job": os.environ.get("SLURM_JOB_ID")}
        file.write(json.dumps(holder) + "\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let others have it."""
        if self._file is not None:
            self._file.close()
            self._file = None
