"""Prompts of a policy: demonstrations to fit on, and questions to answer.

Reads MMPR prompt rows (``{id, image, question, answer}``; with a ``response`` they are demonstrations) and the
questions of the benchmarks, and turns both into batches for :class:`lightning_modules.policy.Policy` and
:class:`lightning_modules.annotation.MonteCarloAnnotator`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from datamodules.answers.compare import answers_equal
from datamodules.answers.extract import clean, extract_final_answer
from datamodules.answers.letters import OPTION_LETTERS, extract_option
from datamodules.benchmarks import (
    BenchmarkOptions,
    Grade,
    Rules,
    benchmarks_in,
    make_benchmark,
    vlmevalkit_prompts,
)
from datamodules.benchmarks.base import with_instruction
from datamodules.conversation.instructions import POLICY_INSTRUCTION
from datamodules.conversation.messages import IMAGE_PLACEHOLDER, question_content
from datamodules.policy import visualprm_v1_1
from datamodules.rollouts.grading import question_digest, verdict_digest
from datamodules.storage import fields
from datamodules.storage.files import read_jsonl
from datamodules.storage.images import open_image

logger = logging.getLogger(__name__)

PromptGrading = Literal["ours", "visualprm_v1_1"]
PromptsAs = Literal["ours", "vlmevalkit"]


@dataclass(frozen=True)
class Prompt:
    """A question that a policy answers.

    Attributes:
        prompt_id: Unique; keys the random numbers of its samples.
        question: Question with options, without instruction; the reward model reads it.
        image_names: Image names of the source row, for rows written from this prompt.
        answer: Gold answer.
        source: Name of the dataset or benchmark.
        load_images: Opens the images.
        grade: Compares a response with the gold answer.
        response: Gold solution of a demonstration.
        text: Text that the policy reads: the question with the instruction; if empty, the question alone.
        details: More fields of the rollouts of this prompt: the rules that grade them, and the order of shuffled
            options.
        verdict_digest: Computes the digest of a verdict on a response to a benchmark question, see
            :mod:`datamodules.rollouts.grading`.
        max_tiles: Most tiles that the policy's pictures are cut into; the processor's own number by default.
    """

    prompt_id: str
    question: str
    image_names: tuple[str, ...]
    answer: str
    source: str
    load_images: Callable[[], list[Image.Image]]
    grade: Callable[[str], Grade]
    response: str | None = None
    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    verdict_digest: Callable[[str], str] | None = None
    max_tiles: int | None = None

    @property
    def policy_text(self) -> str:
        """Text that the policy reads."""
        return self.text or self.question


@dataclass
class PromptBatch:
    """Prompts with opened images and their chats as messages.

    Attributes:
        prompts: B prompts.
        images: Images of each prompt.
        messages: B chats up to the response, in the format of chat templates.
    """

    prompts: list[Prompt]
    images: list[list[Image.Image]]
    messages: list[list[dict[str, Any]]]

    @property
    def sample_ids(self) -> list[str]:
        """Ids of the prompts."""
        return [prompt.prompt_id for prompt in self.prompts]


def render_prompt(processor: ProcessorMixin, messages: Sequence[Mapping[str, Any]]) -> str:
    """The chat as text, up to where the model writes."""
    chat: Any = list(messages)
    return str(processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


class ChatRenderer:
    """Renders the policy's chats with the chat template of a processor.

    Args:
        processor: Processor with the template.
        system_prompt: Empty for no system turn.
    """

    def __init__(self, processor: ProcessorMixin, system_prompt: str = "") -> None:
        self.processor = processor
        self.system_prompt = system_prompt

    def messages(self, text: str, num_images: int) -> list[dict[str, Any]]:
        """Messages of the chat before the response."""
        system = [{"role": "system", "content": [{"type": "text", "text": self.system_prompt}]}]
        user = [{"role": "user", "content": question_content(text, num_images)}]
        return (system if self.system_prompt else []) + user

    def prompt(self, text: str, num_images: int) -> str:
        """The rendered chat up to the beginning of the response."""
        return render_prompt(self.processor, self.messages(text, num_images))

    def conversation(self, text: str, num_images: int, response: str) -> str:
        """The rendered chat with the response and its end."""
        answer = {"role": "assistant", "content": [{"type": "text", "text": response}]}
        return str(self.processor.apply_chat_template([*self.messages(text, num_images), answer], tokenize=False))


class PromptDataset(Dataset[Prompt]):
    """A list of prompts."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = list(prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the prompts with their solutions, in order."""
        digest = hashlib.blake2b(digest_size=8)
        for prompt in self.prompts:
            for text in (prompt.prompt_id, prompt.policy_text, prompt.response or ""):
                digest.update(f"{len(text)}:{text}".encode())
        return digest.hexdigest()


@dataclass
class PromptCollator:
    """Opens images and writes chats as messages."""

    renderer: ChatRenderer

    def __call__(self, prompts: list[Prompt]) -> PromptBatch:
        """Build a batch to generate from."""
        images = [prompt.load_images() for prompt in prompts]
        messages = [self.renderer.messages(p.policy_text, len(i)) for p, i in zip(prompts, images, strict=True)]
        return PromptBatch(prompts, images, messages)


def grade_by_answer(gold: str) -> Callable[[str], Grade]:
    """Grade a response by comparing its final answer with ``gold``; "B. 40 cm" states the option B."""
    is_option = clean(gold).strip("()") in tuple(OPTION_LETTERS)

    def grade(response: str) -> Grade:
        extracted = extract_final_answer(response)
        option = extract_option(extracted.text, {}, OPTION_LETTERS) if is_option else None
        text = option or extracted.short_text
        return Grade(text is not None and answers_equal(text, gold), text, extracted.status)

    return grade


def read_prompts(
    path: Path,
    image_root: Path | None = None,
    instruction: str = POLICY_INSTRUCTION,
    grading: PromptGrading = "ours",
) -> list[Prompt]:
    """Read MMPR prompt rows from a JSONL file.

    Args:
        path: JSONL file; rows hold question, answer, and optionally id, image (a path or a list), source, response.
        image_root: Folder that image paths are relative to; the file's own folder by default.
        instruction: Text after each question; may be empty.
        grading: How responses are compared with the gold answer: by our rules, or as the released annotation of
            VisualPRM400K-v1.1 did, by source (:mod:`datamodules.policy.visualprm_v1_1`).

    Raises:
        ValueError: If there is no such grading, a field is missing, blank or of the wrong type, an id is duplicate, or
            the placeholders of a question do not match its images; names file, line and field.
    """
    if grading not in get_args(PromptGrading):
        raise ValueError(f"grading must be one of {', '.join(get_args(PromptGrading))}, got {grading!r}")
    root = image_root or path.parent
    prompts: list[Prompt] = []
    seen: set[str] = set()
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        question, answer = (fields.text(row, name, where) for name in ("question", "answer"))
        response = fields.text(row, "response", where) if row.get("response") is not None else None
        names = fields.image_names(row, where)
        placeholders = question.count(IMAGE_PLACEHOLDER)
        if placeholders not in (0, len(names)):
            raise ValueError(
                f"{where}: field 'question' has {placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(names)} images"
            )
        prompt_id = f"{path.stem}-{line}" if row.get("id") is None else str(row["id"])
        if prompt_id in seen:
            raise ValueError(
                f"{where}: field 'id' repeats {prompt_id!r}; ids key the random numbers and must be unique"
            )
        seen.add(prompt_id)

        def load(names: list[str] = names, where: str = where) -> list[Image.Image]:
            return [open_image(root / name, f"{where}: field 'image'") for name in names]

        source = str(row.get("source", path.stem))
        prompts.append(
            Prompt(
                prompt_id,
                question,
                tuple(names),
                answer,
                source,
                load,
                grade_by_answer(answer) if grading == "ours" else visualprm_v1_1.grade_as_released(answer, source),
                response,
                with_instruction(question, instruction),
            )
        )
    if grading == "visualprm_v1_1":
        _warn_of_inverted_checks(prompts, path)
    return prompts


def _warn_of_inverted_checks(prompts: Sequence[Prompt], path: Path) -> None:
    counts = Counter(prompt.source for prompt in prompts if visualprm_v1_1.has_inverted_check(prompt.source))
    if counts:
        logger.warning(
            "%s: grading visualprm_v1_1 takes answers of %s for right that are unlike the gold answer, as the released "
            "annotation did; their scores may be noise, so leave these sources out or grade them by 'ours'",
            path,
            ", ".join(f"{source} ({count} prompts)" for source, count in sorted(counts.items())),
        )


def benchmark_prompts(
    folder: Path,
    names: Sequence[str] | None = None,
    instruction: str | None = None,
    rules: Rules = "ours",
    options: Mapping[str, BenchmarkOptions] | None = None,
    prompts_as: PromptsAs = "ours",
) -> list[Prompt]:
    """The questions of benchmarks as prompts; ids are ``benchmark/question_id``.

    Args:
        folder: Folder of the tables or datasets.
        names: Names of benchmarks; by default all in the folder.
        instruction: Text after each question; by default the benchmark's own.
        rules: Rules of grading.
        options: Reading options of benchmarks, by name.
        prompts_as: Whether the policy is asked as we do, or as VLMEvalKit does
            (:mod:`datamodules.benchmarks.vlmevalkit_prompts`), without ``instruction``.

    Raises:
        FileNotFoundError: If a benchmark is missing, or the folder holds none.
        ValueError: If a name or split is unknown, or a benchmark cannot be read, or VLMEvalKit does not ask it.
    """
    prompts = []
    other_layouts = set()
    for name in names or benchmarks_in(folder, options):
        benchmark = make_benchmark(name, rules, options)
        for question in benchmark.read(folder, images="needed"):
            details: dict[str, Any] = {"rules": rules}
            if question.option_order is not None:
                details["option_order"] = question.option_order
            prompts.append(
                Prompt(
                    f"{name}/{question.question_id}",
                    question.question,
                    (),
                    question.gold[0],
                    name,
                    partial(list, question.images),
                    partial(benchmark.grade, question),
                    text=benchmark.policy_prompt(question, instruction),
                    details=details,
                    verdict_digest=partial(verdict_digest, question_digest(benchmark, question)),
                )
            )
            if prompts_as == "vlmevalkit":
                asked = vlmevalkit_prompts.ask(question)
                prompts[-1] = replace(
                    prompts[-1], text=asked.text, load_images=asked.load_images, max_tiles=asked.max_tiles
                )
                if question.row is not None and not question.row.is_table:
                    other_layouts.add(name)
    if other_layouts:
        logger.warning(
            "prompts_as: vlmevalkit: %s come from other files than VLMEvalKit's tables, whose questions may be worded "
            "otherwise",
            ", ".join(sorted(other_layouts)),
        )
    return prompts


def with_other_images(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Give each prompt the images of another one: a control that shows whether pictures matter.

    The other prompt is half the list away, among prompts of the same source and number of images. A prompt without
    another one is not changed. Image names are dropped, since they would be wrong.
    """
    places: dict[tuple[str, int], list[int]] = {}
    for index, prompt in enumerate(prompts):
        places.setdefault((prompt.source, len(prompt.load_images())), []).append(index)
    changed = list(prompts)
    for group in places.values():
        for index, other in zip(group, group[len(group) // 2 :] + group[: len(group) // 2], strict=True):
            changed[index] = replace(prompts[index], load_images=prompts[other].load_images, image_names=())
    return changed
