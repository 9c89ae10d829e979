"""A lock, so that only one run at a time writes to a folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a run waits for another one, which may have been killed and may still be ending."""
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class RunLock:
    """Keeps a second run out of a folder, such as a job that was submitted twice.

    It is a lock of the operating system, so it ends with the process, also if that is killed. It holds for all nodes if
    the file system supports it: NFS does, Lustre does if it is mounted with `flock`.

    Args:
        folder: The folder to lock; the lock file is ``.NAME.lock`` beside it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder.with_name(f".{folder.name}.lock")
        self._lock = FileLock(self._path, fallback_to_soft=False)

    def take(self) -> None:
        """Acquire the lock, waiting for up to :data:`PATIENCE` seconds; called on rank zero.

        Raises:
            RuntimeError: If another process holds it; says which.
        """
        if self._lock.is_locked:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise RuntimeError(
                f"{self._path}: another run writes to this folder now: {self._path.read_text().strip() or 'unknown'}; "
                f"end it first, or give this run a folder of its own"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            logger.warning("%s: no locks on this file system (%s); start only one run", self._path, error)
            return
        holder = {"host": socket.gethostname(), "process": os.getpid(), "slurm_job": os.environ.get("SLURM_JOB_ID")}
        self._path.write_text(json.dumps(holder) + "\n")

    def release(self) -> None:
        """Release the lock."""
        self._lock.release(force=True)
