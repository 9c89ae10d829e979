"""Prompts of a policy: demonstrations to fit on, and questions to answer.

MMPR prompt rows (``{id, image, question, answer}``; with a ``response`` they are demonstrations; read in
:mod:`datamodules.policy.prompt_rows`) and the questions of the benchmarks become batches for
:class:`lightning_modules.policy.Policy` and :class:`lightning_modules.annotation.MonteCarloAnnotator`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from datamodules.batching.collate import SMALL_PICTURE
from datamodules.benchmarks import (
    BenchmarkOptions,
    Grade,
    Rules,
    benchmarks_in,
    make_benchmark,
    vlmevalkit_prompts,
)
from datamodules.benchmarks.table import LazyImages
from datamodules.conversation.messages import IMAGE_PLACEHOLDER, question_content
from datamodules.conversation.reading_rules import PictureRules
from datamodules.rollouts.grading import question_digest, verdict_digest
from datamodules.storage.bad_rows import OnBadRow
from datamodules.storage.images import ImageError

logger = logging.getLogger(__name__)

PromptsAs = Literal["ours", "vlmevalkit"]

_UNUSUAL_RATIO, _UNUSUAL_SIDE = 50, 28  # no processor refuses a picture of less extreme proportions and more pixels


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
        where: ``file:line``, or the id of a benchmark question; begins messages.
        numbered_id: Id that earlier versions gave to a row without one: name of the file and line. Positions inside of
            an epoch in their checkpoints hold it.
        max_tiles: Most tiles that the policy's pictures are cut into; the processor's own number by default.
        solutions: Solutions that come with the prompt, as steps, to be judged.
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
    where: str = ""
    numbered_id: str | None = None
    max_tiles: int | None = None
    solutions: tuple[tuple[str, ...], ...] = ()

    @property
    def digest(self) -> str:
        """Of all that answers and their grades depend on; pictures count by their names."""
        steps = [step for solution in self.solutions for step in solution]
        return digest_of_texts(self.question, self.policy_text, self.answer, self.source, *self.image_names, *steps)

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
        left_out: Prompt id to what is wrong with its pictures, for prompts whose answers do not count. They have blank
            pictures, so that the batch keeps its size and all ranks stay in step. Those that the engine refuses are
            added.
        on_bad_row: What to do about a prompt that the engine refuses.
    """

    prompts: list[Prompt]
    images: list[list[Image.Image]]
    messages: list[list[dict[str, Any]]]
    left_out: dict[str, str] = field(default_factory=dict)
    on_bad_row: OnBadRow = "error"

    @property
    def sample_ids(self) -> list[str]:
        """Ids of the prompts."""
        return [prompt.prompt_id for prompt in self.prompts]

    def leave_out(self, prompt: Prompt, problem: ValueError) -> None:
        """Leave out a prompt that cannot be answered, and say so.

        Raises:
            ValueError: The problem, if ``on_bad_row`` is "error".
        """
        if self.on_bad_row == "error":
            raise problem
        self.left_out[prompt.prompt_id] = f"{prompt.where or prompt.prompt_id}: {problem}"
        logger.warning("left out: %s", self.left_out[prompt.prompt_id])


def render_prompt(processor: ProcessorMixin, messages: Sequence[Mapping[str, Any]]) -> str:
    """The chat as text, up to where the model writes."""
    chat: Any = list(messages)
    return str(processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


class ChatRenderer:
    """Renders the policy's chats with the chat template of a processor.

    Args:
        processor: Processor with the template. None for chats that stay messages: another program renders them.
        system_prompt: Empty for no system turn.
    """

    def __init__(self, processor: ProcessorMixin | None, system_prompt: str = "") -> None:
        self.processor = processor
        self.system_prompt = system_prompt

    def messages(self, text: str, num_images: int) -> list[dict[str, Any]]:
        """Messages of the chat before the response."""
        system = [{"role": "system", "content": [{"type": "text", "text": self.system_prompt}]}]
        user = [{"role": "user", "content": question_content(text, num_images)}]
        return (system if self.system_prompt else []) + user

    def prompt(self, text: str, num_images: int) -> str:
        """The rendered chat up to the beginning of the response."""
        return render_prompt(self._known_processor, self.messages(text, num_images))

    @property
    def _known_processor(self) -> ProcessorMixin:
        assert self.processor is not None, "chats are rendered for models of this process only"
        return self.processor

    def conversation(self, text: str, num_images: int, response: str) -> str:
        """The rendered chat with the response and its end."""
        answer = {"role": "assistant", "content": [{"type": "text", "text": response}]}
        chat = [*self.messages(text, num_images), answer]
        return str(self._known_processor.apply_chat_template(chat, tokenize=False))


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
            for text in (prompt.numbered_id or prompt.prompt_id, prompt.policy_text, prompt.response or ""):
                digest.update(f"{len(text)}:{text}".encode())
        return digest.hexdigest()


@dataclass
class PromptCollator:
    """Opens images and writes chats as messages.

    Attributes:
        renderer: Writes the chats.
        on_bad_row: What to do about a prompt whose picture cannot be used: see :attr:`PromptBatch.left_out`, or raise
            an error.
    """

    renderer: ChatRenderer
    on_bad_row: OnBadRow = "error"

    def __call__(self, prompts: list[Prompt]) -> PromptBatch:
        """Build a batch to generate from.

        Raises:
            ImageError: If a picture cannot be used and its prompt is not to be left out; names file and line.
        """
        left_out: dict[str, str] = {}
        images = [usable_images(prompt, self.renderer.processor, self.on_bad_row, left_out) for prompt in prompts]
        messages = [self.renderer.messages(p.policy_text, len(i)) for p, i in zip(prompts, images, strict=True)]
        return PromptBatch(prompts, images, messages, left_out, self.on_bad_row)


def usable_images(
    prompt: Prompt, processor: ProcessorMixin | None, on_bad_row: OnBadRow, left_out: dict[str, str]
) -> list[Image.Image]:
    """The pictures of a prompt, or blank ones in their place.

    Args:
        prompt: Names its pictures.
        processor: May refuse pictures of an unusual shape; these are tried on their own. None if it is not here.
        on_bad_row: "skip" gives blank pictures where one cannot be used.
        left_out: Takes the id of such a prompt and what is wrong.

    Raises:
        ImageError: If a picture cannot be used and ``on_bad_row`` is "error"; names file and line.
    """
    try:
        images = prompt.load_images()
        for image in images:
            _try_unusual_shape(image, processor, prompt.where)
        return images
    except ImageError as error:
        if on_bad_row == "error":
            raise
        left_out[prompt.prompt_id] = str(error)
        count = len(prompt.image_names) or prompt.policy_text.count(IMAGE_PLACEHOLDER)
        return [Image.new("RGB", SMALL_PICTURE) for _ in range(count)]


def _try_unusual_shape(image: Image.Image, processor: ProcessorMixin | None, where: str) -> None:
    if processor is None:
        return
    if max(image.size) < _UNUSUAL_RATIO * min(image.size) and min(image.size) >= _UNUSUAL_SIDE:
        return
    try:
        processor.image_processor(images=[image], return_tensors="pt")
    except Exception as error:  # processors raise all kinds
        raise ImageError(
            f"{where}: a picture of {image.width} x {image.height} pixels cannot be used with this model: {error}"
        ) from error


def digest_of_texts(*texts: str) -> str:
    """A digest of some texts that is the same on every machine; 16 letters."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def benchmark_prompts(
    folder: Path,
    names: Sequence[str] | None = None,
    instruction: str | None = None,
    rules: Rules = "ours",
    options: Mapping[str, BenchmarkOptions] | None = None,
    prompts_as: PromptsAs = "ours",
    pictures: PictureRules = "ours",
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
        pictures: How pictures become RGB, see :func:`datamodules.storage.images.open_image`.

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
                    partial(_opened, question.images, pictures),
                    partial(benchmark.grade, question),
                    text=benchmark.policy_prompt(question, instruction),
                    details=details,
                    verdict_digest=partial(verdict_digest, question_digest(benchmark, question)),
                    where=f"{name}/{question.question_id}",
                )
            )
            if prompts_as == "vlmevalkit":
                asked = vlmevalkit_prompts.ask(question)
                load = partial(vlmevalkit_prompts.load, asked, partial(_opened, rules=pictures))
                prompts[-1] = replace(prompts[-1], text=asked.text, load_images=load, max_tiles=asked.max_tiles)
                if question.row is not None and not question.row.is_table:
                    other_layouts.add(name)
    if other_layouts:
        logger.warning(
            "prompts_as: vlmevalkit: %s come from other files than VLMEvalKit's tables, whose questions may be worded "
            "otherwise",
            ", ".join(sorted(other_layouts)),
        )
    return prompts


def _opened(images: Sequence[Image.Image], rules: PictureRules) -> list[Image.Image]:
    return list(images.by_rules(rules) if isinstance(images, LazyImages) else images)


def with_other_images(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Give each prompt the images of another one: a control that shows whether pictures matter.

    The other prompt is half the list away, among prompts of the same source and number of images. A prompt without
    another one is not changed. Image names are dropped, since they would be wrong.
    """
    places: dict[tuple[str, int], list[int]] = {}
    for index, prompt in enumerate(prompts):
        places.setdefault((prompt.source, _num_images(prompt)), []).append(index)
    changed = list(prompts)
    for group in places.values():
        for index, other in zip(group, group[len(group) // 2 :] + group[: len(group) // 2], strict=True):
            changed[index] = replace(prompts[index], load_images=prompts[other].load_images, image_names=())
    return changed


def _num_images(prompt: Prompt) -> int:
    try:
        return len(prompt.load_images())
    except ImageError:  # it is left out, or an error, when its batch is made
        return len(prompt.image_names)
