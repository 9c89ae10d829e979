"""What a reward model reads above the candidates of a benchmark question: texts, pictures, tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from datamodules.benchmarks import Benchmark, BenchmarkQuestion, vlmevalkit_prompts
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.conversation.reading_rules import PictureRules, ReadingRules
from datamodules.rollouts.records import Rollout, place


@dataclass(frozen=True)
class QuestionAsRead:
    """A question above its candidates.

    Attributes:
        texts: For each of the N candidates the text of the question.
        images: Its pictures, as they are kept: decoded at access.
        asked: What VLMEvalKit asks, if the policy was asked so and the model reads it so; its pictures and tiles then
            are those of the policy.
    """

    texts: list[str]
    images: Sequence[Image.Image]
    asked: vlmevalkit_prompts.AskedQuestion | None = None

    @property
    def max_tiles(self) -> int | None:
        """Most tiles of each picture; the processor's own number by default."""
        return self.asked.max_tiles if self.asked else None

    def opened(self, rules: PictureRules) -> list[Image.Image]:
        """The pictures, decoded.

        Raises:
            ImageError: If one cannot be used.
        """
        if self.asked:
            return vlmevalkit_prompts.load(self.asked, lambda images: _opened(images, rules))
        return _opened(self.images, rules)


def question_as_read(question: BenchmarkQuestion, rollouts: Sequence[Rollout], rules: ReadingRules) -> QuestionAsRead:
    """The question as the policy was asked, where the rules say so and the rollouts tell it; else the question alone.

    Raises:
        ValueError: If a prompt has placeholders, but not one for each picture; names the rollout.
    """
    texts = [
        rules.question(question.question if each.prompt is None else each.prompt, question.question)
        for each in rollouts
    ]
    asked = _as_vlmevalkit(question) if rules.question_text == "as_asked" else None
    if asked is not None and all(text == asked.text for text in texts):
        return QuestionAsRead(texts, asked.images, asked)
    count = len(question.images)
    for text, rollout in zip(texts, rollouts, strict=True):
        if count and text.count(IMAGE_PLACEHOLDER) not in (0, count):
            raise ValueError(
                f"{place(rollout)}: field 'prompt' has {text.count(IMAGE_PLACEHOLDER)} {IMAGE_PLACEHOLDER} "
                f"placeholders, but the question has {count} images"
            )
    return QuestionAsRead(texts, question.images)


def with_prompts(
    rollouts: Sequence[Rollout],
    benchmark: Benchmark,
    questions: Sequence[BenchmarkQuestion],
    prompts_as: Literal["ours", "vlmevalkit"],
) -> list[Rollout]:
    """The rollouts, each with what the policy was asked, for files that do not say it.

    Args:
        rollouts: Of the benchmark; those with a prompt keep it.
        benchmark: Makes our own prompts.
        questions: Those of the rollouts among them.
        prompts_as: Who asked the policy.

    Raises:
        ValueError: If VLMEvalKit does not ask this benchmark.
    """
    prompts = {
        question.question_id: benchmark.policy_prompt(question)
        if prompts_as == "ours"
        else vlmevalkit_prompts.ask(question).text
        for question in questions
    }
    return [each if each.prompt else replace(each, prompt=prompts[each.question_id]) for each in rollouts]


def _as_vlmevalkit(question: BenchmarkQuestion) -> vlmevalkit_prompts.AskedQuestion | None:
    is_known = question.benchmark in vlmevalkit_prompts.TEMPLATES and question.row is not None
    return vlmevalkit_prompts.ask(question) if is_known else None


def _opened(images: Sequence[Image.Image], rules: PictureRules) -> list[Image.Image]:
    return list(images.by_rules(rules) if isinstance(images, LazyImages) else images)
