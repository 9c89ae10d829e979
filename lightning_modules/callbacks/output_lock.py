"""Which runs may write to an output at once: the shards of one run, and nobody else."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path

from datamodules.batching.shards import Shard
from lightning_modules.checkpointing.run_lock import RunLock

_FOREVER = -1.0


class OutputLock:
    """The locks of one run, or of one shard of several, on an output.

    Args:
        output: The file.
        shard: Which of the runs that share it this is.
    """

    def __init__(self, output: Path, shard: Shard) -> None:
        self.output = output
        self._part = f".run-{shard.label.rstrip('-')}" if shard.label else ".run"
        self._own = RunLock(output, self._part)
        self._shared = RunLock(output)

    def take(self) -> None:
        """Take the lock of this shard, until :meth:`release`.

        Raises:
            RuntimeError: If another run has it.
        """
        self._own.take()

    def release(self) -> None:
        """Let other runs have the output."""
        self._own.release()

    def held(self) -> AbstractContextManager[object]:
        """Keep the other shards waiting for as long as it is entered."""
        return self._shared.held(_FOREVER)

    def refuse_other_runs(self, *, same_count: bool) -> None:
        """Make sure that no run with another number of shards writes now.

        Args:
            same_count: Whether no other shard may write, either.

        Raises:
            RuntimeError: If one does.
        """
        count = self._part.rpartition("-of-")[2]
        locks = re.compile(rf"\.{re.escape(self.output.name)}(\.run(-\d+-of-\d+)?)\.lock")
        for path in sorted(self.output.parent.iterdir()):
            part = found[1] if (found := locks.fullmatch(path.name)) else self._part
            if part != self._part and (same_count or part.rpartition("-of-")[2] != count):
                with RunLock(self.output, part).held(0.0):
                    pass
