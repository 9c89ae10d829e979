"""A question that a policy answers, whatever it comes from.

:mod:`datamodules.policy.prompt_rows` and :mod:`datamodules.policy.prompt_sources` make prompts of rows on disk,
:mod:`datamodules.policy.benchmark_prompts` of the questions of benchmarks, and
:mod:`datamodules.policy.process_bench_prompts` of the solutions of VisualProcessBench.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from datamodules.benchmarks import Grade
from datamodules.storage.images import ImageError


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


def digest_of_texts(*texts: str) -> str:
    """A digest of some texts that is the same on every machine; 16 letters."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


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
