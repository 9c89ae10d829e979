"""Many files of MMPR prompts at once, each with its own images, tiles, instruction and number of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.benchmarks.base import with_instruction
from datamodules.conversation.instructions import POLICY_INSTRUCTION, without_requests
from datamodules.conversation.reading_rules import PictureRules
from datamodules.policy.prompt_rows import PromptGrading, read_prompts
from datamodules.policy.prompts import Prompt
from datamodules.policy.released_annotation import MaxTiles, at_equal_distances, with_choices
from datamodules.storage.bad_rows import MAX_BAD_ROWS, OnBadRow
from datamodules.supervision.annotation_files import find_annotation_files


@dataclass
class PromptSource:
    """One or several JSONL files of prompts with settings of their own.

    Attributes:
        annotations: Files, folders of them, and patterns, as of
            :func:`datamodules.supervision.annotation_files.find_annotation_files`.
        image_root: Folder that image paths are relative to; the folder of each file by default.
        name: Name of the source, for rows that give none; the stem of each file by default. It begins the ids of
            prompts.
        instruction_template: Instruction around its questions, by its name in
            :data:`datamodules.conversation.instructions.INSTRUCTIONS`, such as ``boxed`` or ``final_answer_zh``; that
            of the data module by default.
        max_tiles: Most tiles that its pictures are cut into; those of the data module by default.
        limit: At most so many prompts of each file, at equal distances.

    Raises:
        ValueError: If a number is below 1.
    """

    annotations: str | list[str]
    image_root: str | None = None
    name: str | None = None
    instruction_template: str | None = None
    max_tiles: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_tiles", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"sources: {name} must be at least 1, got {value}")

    @property
    def files(self) -> list[Path]:
        """The files.

        Raises:
            FileNotFoundError: If there is none at a path.
            ValueError: If one is no JSONL file.
        """
        paths = [self.annotations] if isinstance(self.annotations, str) else list(self.annotations)
        found = find_annotation_files(paths)
        if others := [str(file) for file in found if file.kind != "jsonl"]:
            raise ValueError(f"sources: prompts are read from JSONL files, and {others[0]} is none")
        return [file.path for file in found]


def read_sources(
    sources: Sequence[PromptSource] | Mapping[str, PromptSource],
    image_root: Path | None = None,
    instruction: str = POLICY_INSTRUCTION,
    instruction_template: str | None = None,
    max_tiles: MaxTiles | None = None,
    grading: PromptGrading = "ours",
    on_bad_row: OnBadRow = "skip",
    pictures: PictureRules = "ours",
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[Prompt]:
    """The prompts of all files, in order.

    Ids are ``source/id``, so that a prompt keeps its id, and with it its samples, when other files are given beside its
    own. Questions are asked without the instructions that they come with (see
    :data:`datamodules.conversation.instructions.SHORT_ANSWER_REQUESTS`): a policy that is to reason should not be
    asked for a single word.

    Args:
        sources: As a list, or as a mapping whose keys name sources that have no name.
        image_root: For sources that give none.
        instruction: Text after each question, where there is no ``instruction_template``.
        instruction_template: For sources that give none.
        max_tiles: For sources that give none.
        grading: See :func:`datamodules.policy.prompt_rows.read_prompts`.
        on_bad_row: See there.
        pictures: See there.
        max_bad_rows: See there; of each file.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If no row of a file can be used, two prompts have the same id, or an instruction is not known.
    """
    named = sources.items() if isinstance(sources, Mapping) else [(None, source) for source in sources]
    prompts: dict[str, Prompt] = {}
    for key, given in named:
        source = given if isinstance(given, PromptSource) else PromptSource(**given)
        for path in source.files:
            root = source.image_root or image_root
            name = source.name or (str(key) if key is not None else path.stem)
            found = read_prompts(
                path,
                Path(root) if root else None,
                "",
                grading,
                on_bad_row,
                pictures=pictures,
                source=name,
                max_bad_rows=max_bad_rows,
            )
            found = [
                replace(
                    prompt,
                    prompt_id=f"{name}/{prompt.prompt_id}",
                    text=with_instruction(without_requests(prompt.question), instruction),
                )
                for prompt in found
            ]
            found = with_choices(
                found, source.instruction_template or instruction_template, source.max_tiles or max_tiles
            )
            for prompt in at_equal_distances(found, source.limit) if source.limit else found:
                if prompt.prompt_id in prompts:
                    other = prompts[prompt.prompt_id].where
                    raise ValueError(
                        f"{prompt.where}: the prompt {prompt.prompt_id!r} is also at {other}; give the sources "
                        f"different names"
                    )
                prompts[prompt.prompt_id] = prompt
    return list(prompts.values())
