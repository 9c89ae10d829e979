"""Solutions of an earlier annotation, or of any rows of its layout, to be scored by another policy."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.storage import fields
from datamodules.storage.files import parse_json_line

logger = logging.getLogger(__name__)


class GivenSolutions:
    """Finds the solutions of a prompt in a JSONL file, which stays on disk.

    Args:
        path: Rows have an ``id``, which is the prompt's id, a slash, and the number of the solution, and a
            ``response``. What else they have is not looked at. Rollout rows are taken as they are; those of a question
            must stand in the order of their samples.

    Attributes:
        digest: Of the file's content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a row is malformed, or its id is not of that form; names file and line. If there are no rows.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"solutions_from: {path} is no file; give the rows of an annotation")
        self.path = path
        self._has_warned = False
        self._num_asked = self._num_found = 0
        self._offsets: dict[str, list[int]] = {}
        # Rollouts of a user's own prompts have the prompt's id as `question_id`, beside the name of its source.
        self._names_of: dict[str, set[str]] = {}
        content = hashlib.sha256()
        offset = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                content.update(line)
                if line.strip():
                    where = f"{path}:{number}"
                    row = parse_json_line(line, where)
                    row_id = _id_of(row, where)
                    prompt_id, _, index = row_id.rpartition("/")
                    if "id" not in row:
                        self._names_of.setdefault(row["question_id"], set()).add(prompt_id)
                    known = self._offsets.setdefault(prompt_id, [])
                    if not prompt_id or index != str(len(known)):
                        raise ValueError(
                            f"{where}: field 'id' is {row_id!r}; expected the id of a prompt, a slash, and the number "
                            f"of the solution, which is {len(known)} here"
                        )
                    known.append(offset)
                offset += len(line)
        if not self._offsets:
            raise ValueError(f"solutions_from: {path} holds no rows; give the rows of an annotation")
        self.digest = content.hexdigest()[:16]

    def of(self, prompt_ids: Sequence[str]) -> dict[str, list[str]]:
        """The solutions of some prompts, in order; none for prompts that have no row.

        A prompt of whose id two sources have rollouts has none either.
        """
        found: dict[str, list[str]] = {}
        with self.path.open("rb") as file:
            for prompt_id in prompt_ids:
                texts = []
                for offset in self._offsets_of(prompt_id):
                    file.seek(offset)
                    where = f"{self.path}, byte {offset}"
                    texts.append(fields.text(parse_json_line(file.readline(), where), "response", where, blank=True))
                found[prompt_id] = texts
        self._num_asked += len(found)
        self._num_found += sum(map(bool, found.values()))
        missing = [name for name, texts in found.items() if not texts]
        if missing and not self._has_warned:
            self._has_warned = True
            logger.warning("%s holds no solutions of %s, so it gets no rows; nor may others", self.path, missing[0])
        return found

    def _offsets_of(self, prompt_id: str) -> list[int]:
        names = {prompt_id} & self._offsets.keys() or self._names_of.get(prompt_id, set())
        return self._offsets[next(iter(names))] if len(names) == 1 else []

    def require_some(self) -> None:
        """Refuse that none of the prompts so far has a solution here.

        Raises:
            ValueError: If there were prompts.
        """
        if self._num_asked and not self._num_found:
            raise ValueError(
                f"solutions_from: {self.path} holds no solutions of any of the {self._num_asked} prompts, "
                f"but of {next(iter(self._offsets))!r} and others; give the rows that belong to these prompts"
            )


def _id_of(row: Mapping[str, Any], where: str) -> str:
    if "id" in row or "sample_index" not in row:
        return fields.text(row, "id", where)
    names = (fields.text(row, "benchmark", where), fields.text(row, "question_id", where))
    return "/".join((*names, str(fields.integer(row, "sample_index", where))))
