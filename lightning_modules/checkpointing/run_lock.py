"""A folder or a file that one run at a time writes to."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a run waits for another one, which may have been killed and be about to vanish."""
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class RunLock:
    """Keeps a second run out of a place, such as a job that was submitted twice.

    It is a lock of the operating system on a file beside the place, so it ends with the process, however that ends;
    file systems of clusters keep it over all nodes (NFS does; Lustre where it is mounted with `flock`).

    Args:
        place: Folder or file that is written to.
        part: Which part of it; the lock is ``.NAMEPART.lock`` beside the place.
    """

    def __init__(self, place: Path, part: str = "") -> None:
        self.place = place
        self._path = place.with_name(f".{place.name}{part}.lock")
        self._lock = FileLock(self._path, fallback_to_soft=False)

    def take(self, patience: float | None = None) -> None:
        """Take it; one process of a run does so.

        Args:
            patience: Seconds to wait for another process that has it; :data:`PATIENCE` by default, forever if negative.

        Raises:
            RuntimeError: If another process has it; says which.
        """
        if self._lock.is_locked:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=PATIENCE if patience is None else patience)
        except Timeout as error:
            raise RuntimeError(
                f"{self.place}: another run writes here now: {_described(self._path.read_text())}; end it first, or "
                f"give this run a place of its own (the lock is {self._path})"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            logger.warning("%s: no locks on this file system (%s); start only one run", self._path, error)
            return
        holder = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
        }
        self._path.write_text(json.dumps(holder) + "\n")

    def release(self) -> None:
        """Let others have it."""
        self._lock.release(force=True)

    @contextmanager
    def held(self, patience: float | None = None) -> Iterator[None]:
        """Have it within this context; see :meth:`take`."""
        self.take(patience)
        try:
            yield
        finally:
            self.release()


def _described(content: str) -> str:
    """What a lock file says about the process that has it; the file may be from another version, or not written yet."""
    try:
        holder = json.loads(content)
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in holder.items() if value is not None)
    except (ValueError, AttributeError):
        return content.strip() or "a process that has not said its name yet"
