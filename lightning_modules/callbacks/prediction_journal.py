"""The files of a `predict` run: journals of finished prompts, a record of what they belong to, and the joined output.

Beside ``rows.jsonl`` lie ``rows.jsonl.journal-*``, one a rank, with a line for each finished prompt, until they are
joined; and ``rows.jsonl.settings``, the record, which stays: it says which settings and prompts the output is of.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datamodules.batching.shards import Shard
from datamodules.storage.fields import first_of
from datamodules.storage.files import atomic_write_text
from lightning_modules.callbacks.growing_output import growing
from lightning_modules.callbacks.journal_files import Entry, has_a_line, located_entries, without_torn_line
from lightning_modules.callbacks.journalled_rows import JournalledRows
from lightning_modules.callbacks.output_lock import OutputLock
from lightning_modules.callbacks.prediction_record import Base, Record, differences, digest_of, other_prompts

logger = logging.getLogger(__name__)


class PredictionJournal:
    """Journals, record and output of one run, or of one shard of several.

    Args:
        output: JSONL file that the journals are joined into.
        shard: Which of the runs that share the output this is.
    """

    def __init__(self, output: Path, shard: Shard = Shard()) -> None:  # noqa: B008 - frozen
        self.output, self.shard = output, shard
        self.record_path = output.with_name(f"{output.name}.settings")
        self._lock = OutputLock(output, shard)
        self._now: Record | None = None

    # ------------------------------------------------------------------- begin

    def begin(
        self,
        settings: Mapping[str, Any],
        digests: Mapping[str, str],
        *,
        overwrite: bool,
        growing_setting: str | None = None,
    ) -> set[str] | None:
        """Keep other runs out, and find what is done; one process of a run calls it.

        Args:
            settings: All that predictions depend on beside the prompts.
            digests: Digest of the content of each prompt by id, in order.
            overwrite: Begin anew, whatever is there.
            growing_setting: Name of a setting, the number of samples of a prompt, that may be larger than that of a
                finished output; then :attr:`samples_done` samples are kept, and the others are added.

        Returns:
            Ids of the prompts that are done; None if the output is complete.

        Raises:
            ValueError: If what is there is of other settings or prompts; names the difference.
            FileExistsError: If there is an output of unknown origin.
            RuntimeError: If another run writes to the output.
        """
        if not digests:
            raise ValueError(f"{self.output}: there are no prompts to answer; an output that is there stays as it is")
        now = self._now = Record(json.loads(json.dumps(settings)), digest_of(digests), len(digests))
        self._lock.take()
        try:
            with self._lock.held():
                return self._begin(now, digests, overwrite, growing_setting)
        except BaseException:
            self._lock.release()
            raise

    @property
    def samples_done(self) -> int:
        """How many rows of each prompt are kept from an output that this run adds to."""
        return self._now.base.samples if self._now is not None and self._now.base is not None else 0

    def _begin(
        self, now: Record, digests: Mapping[str, str], overwrite: bool, growing_setting: str | None
    ) -> set[str] | None:
        self._lock.refuse_other_runs(same_count=False)
        if overwrite:
            self._clear(now)
        before = self._record()
        if before is None and (unknown := self._of_unknown_origin()):
            raise FileExistsError(
                f"{unknown} is there, and nothing beside it says which settings and prompts it is of; give another "
                f"output, move it away, or replace it with --overwrite"
            )
        if before is not None and (grown := growing(before, now, growing_setting, self.output)):
            self.remove_journals()  # the run that joined them may have been killed before it had removed all
            self._now = grown
            self._write(grown)
            return set(before.left_out)
        if before is not None and (found := differences(before.settings, now.settings)):
            raise ValueError(
                f"{self.output}: {before.kind} run with other settings is there: {found}; give the same settings or "
                f"another output, or begin anew with --overwrite"
            )
        if before is not None and before.is_finished:
            self._check_finished(before, now)
            return None
        done = self._done(before, now, digests)
        if before is not None and before.base is not None:
            if not self.output.exists():
                raise FileNotFoundError(
                    f"{self.output}: the rows of the first {before.base.samples} samples of each prompt were there and "
                    f"are gone; put the file back, or begin anew with --overwrite"
                )
            now = self._now = replace(now, base=before.base)
            done |= set(before.base.left_out)
        self._write(now)
        return done

    def _check_finished(self, before: Record, now: Record) -> None:
        if before.prompts not in (None, now.prompts):
            raise ValueError(
                f"{self.output}: a finished run of other prompts is there: {before.count} with the digest "
                f"{before.prompts}, now {now.count} with {now.prompts}; give the same prompts or another output, or "
                f"begin anew with --overwrite"
            )
        left = f"; {_left_out(before.left_out)}" if before.left_out else ""
        logger.warning("%s is there, and complete: nothing is left to do%s", self.output, left)
        self.remove_journals()  # the run that joined them may have been killed before it had removed all

    def _of_unknown_origin(self) -> Path | None:
        """The output, or a journal with answers."""
        if self.output.exists():
            return self.output
        return next((path for path in self.journals() if has_a_line(path)), None)

    def _done(self, before: Record | None, now: Record, digests: Mapping[str, str]) -> set[str]:
        """Ids of the prompts that the journals answer; raises ValueError if they answer others."""
        answered = {entry.prompt_id: entry.digest for entry in self.entries() if entry.problem is None}
        if problem := other_prompts(before, answered, digests):
            raise ValueError(
                f"{self.output}: an unfinished run of other prompts is there: {problem}; give the prompts of that run "
                f"or another output, or begin anew with --overwrite"
            )
        if before is not None and before.is_old and answered:
            logger.warning(
                "%s: %d answers are from an earlier version of this package, which did not look at the content of "
                "prompts; they are taken by the ids of the prompts",
                self.output,
                len(answered),
            )
        elif before is not None and before.prompts != now.prompts:
            logger.warning(
                "%s: the prompts have changed, %s before and %d now; all %d answered ones are among them",
                self.output,
                before.count,
                now.count,
                len(answered),
            )
        return set(answered)

    def _clear(self, now: Record) -> None:
        """Forget what is there; the output itself is replaced when the new one is complete."""
        try:
            before = self._record()
        except ValueError:
            before = None
        if self.shard.count > 1 and before == now:
            # Another shard may have begun anew already, and what it has done since is not to be forgotten.
            paths = [path for path in self.journals() if self._is_own(path)]
        else:
            self._lock.refuse_other_runs(same_count=True)
            paths = self.journals()
        for path in paths:
            path.unlink()
        # After that: journals are never of other settings than the record.
        self._write(now)
        if paths or self.output.exists():
            logger.warning("%s: begun anew; %d journals of the run before are removed", self.output, len(paths))

    def _is_own(self, path: Path) -> bool:
        rest = path.name.removeprefix(f"{self.output.name}.journal-")
        return rest.startswith(self.shard.label) and rest.removeprefix(self.shard.label).isdigit()

    # ----------------------------------------------------------------- journals

    def journals(self) -> list[Path]:
        """Of all ranks and shards."""
        begin = f"{self.output.name}.journal-"
        parent = self.output.parent
        return sorted(path for path in parent.iterdir() if path.name.startswith(begin)) if parent.is_dir() else []

    def journal_of(self, rank: int) -> Path:
        """The journal of a rank, without a last line that a kill cut short."""
        path = self.output.with_name(f"{self.output.name}.journal-{self.shard.label}{rank:05d}")
        without_torn_line(path)
        return path

    def entries(self) -> Iterator[Entry]:
        """Entries of all journals, one after the other; see :func:`.journal_files.located_entries`."""
        return (entry for _, _, entry in located_entries(self.journals()))

    # --------------------------------------------------------------------- join

    def join(self, prompt_ids: Sequence[str], *, is_whole: bool, own_ids: Sequence[str] | None = None) -> None:
        """Write the output from the journals, if all prompts are done; one process of a run calls it.

        Args:
            prompt_ids: Of all prompts, in order.
            is_whole: Whether this run was to answer all prompts of its shard.
            own_ids: Of the prompts of its shard; every ``shard.count``-th of all by default.

        Raises:
            RuntimeError: If it was and has not, or another run has begun with other prompts.
        """
        with ExitStack() as stack:
            if self.shard.count > 1:
                stack.enter_context(self._lock.held())
            self._join(prompt_ids, is_whole, self.shard.of(prompt_ids) if own_ids is None else own_ids)

    def _join(self, prompt_ids: Sequence[str], is_whole: bool, own_ids: Sequence[str]) -> None:
        record, now = self._stored(), self._now
        if record is None or now is None or (record.settings, record.prompts) != (now.settings, now.prompts):
            raise RuntimeError(
                f"{self.output}: another run has begun with other settings or prompts since this one has; nothing is "
                f"joined, the journals are kept"
            )
        if record.is_finished:
            # Joined by another shard, which may have been killed before it had removed everything.
            self.remove_journals()
            return
        base = record.base
        found = JournalledRows.of(self.journals(), base)
        left_out = {name: found.left_out[name] for name in prompt_ids if name in found.left_out}
        missing, own = found.missing(prompt_ids), found.missing(own_ids)
        if not missing:
            self._check_growth(base, left_out)
            if len(left_out) == len(prompt_ids):
                raise RuntimeError(f"{self.output}: no prompt could be answered: {_left_out(left_out)}")
            found.write(self.output, prompt_ids)
            finished = replace(
                record,
                is_finished=True,
                left_out=left_out,
                rows=found.count + (0 if base is None else base.rows),
                costs=found.costs,
                when=datetime.now(UTC).isoformat(timespec="seconds"),
                base=None,
            )
            self._write(finished)
            self.remove_journals()
            if left_out:
                logger.warning("%s: %s", self.output, _left_out(left_out))
        elif not own:
            logger.warning(
                "%s: this shard is done; %d of %d prompts are left to the others",
                self.output,
                len(missing),
                len(prompt_ids),
            )
        elif is_whole:
            raise RuntimeError(f"{self.output}: no prediction for {len(own)} prompts, the first is {own[0]!r}")

    def _check_growth(self, base: Base | None, left_out: Mapping[str, str]) -> None:
        """Keep an output as it is where some of its prompts got no further rows: all must have equally many."""
        short = {} if base is None else {name: why for name, why in left_out.items() if name not in base.left_out}
        if short:
            raise RuntimeError(
                f"{self.output}: prompts that have rows got no further ones, so the output stays as it is; start again "
                f"to try them once more: {_left_out(short)}"
            )

    def remove_journals(self) -> None:
        """Remove the journals of all ranks and shards."""
        for path in self.journals():
            path.unlink(missing_ok=True)

    def finished(self) -> Record | None:
        """The record of a complete output; None where there is none."""
        found = self._record()
        return found if found is not None and found.is_finished and self.output.exists() else None

    def release(self) -> None:
        """Let other runs have the output."""
        self._lock.release()

    # ------------------------------------------------------------------- record

    def _record(self) -> Record | None:
        """The record, where it says anything about what is there."""
        found = self._stored()
        if found is None:
            return None
        is_there = self.output.exists()
        if found.is_finished and not is_there:
            # Somebody has moved it away, to begin anew; journals may have survived a kill after they had been joined.
            return replace(found, is_finished=False) if self.journals() else None
        if found.is_finished:
            return found
        if found.is_old and is_there:
            return None  # an earlier version may have begun anew beside an output of whatever settings
        return found if is_there or self.journals() else None  # killed before it had answered anything

    def _stored(self) -> Record | None:
        if not self.record_path.exists():
            return None
        # Of a finished output, earlier versions kept the settings only where shards had made it.
        return Record.of(self.record_path, is_finished=self.shard.count > 1 and self.output.exists())

    def _write(self, record: Record) -> None:
        atomic_write_text(self.record_path, record.text())


def _left_out(left_out: Mapping[str, str]) -> str:
    return f"{len(left_out)} prompts are left out: {first_of(list(left_out.values()), '; ')}"
