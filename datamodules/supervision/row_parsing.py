"""One row of process supervision, as released, turned into columns of known types."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datamodules.conversation.instructions import without_instruction
from datamodules.conversation.messages import IMAGE_PLACEHOLDER, PLACEHOLDER, parse_conversation_row
from datamodules.conversation.steps import written_steps
from datamodules.storage import fields
from datamodules.supervision.consensus import Consensus, score_by
from datamodules.supervision.vl_prm_300k import as_raw_row, is_vl_prm_row


def parse_row(
    row: Mapping[str, Any],
    where: str,
    source: str,
    find: Callable[[str], str],
    place: Callable[[str], str],
    consensus: Consensus = "monte_carlo",
) -> dict[str, Any]:
    """Normalise a raw row or a conversation row.

    Args:
        row: As parsed from JSON, or a dataset's row with pictures as stored (``{"bytes": ..., "path": ...}``).
        where: ``file:row``.
        source: Name of the source where the row gives none.
        find: Path or reference of an image name.
        place: What tells the image at a path or reference from others.
        consensus: Whose verdicts on the steps of raw rows count.

    Returns:
        The columns of :data:`datamodules.supervision.rows.FEATURES` but ``sample_id`` and ``problem``.

    Raises:
        ValueError: If a field is missing, of the wrong type or out of range; names file, line and field.
    """
    if is_vl_prm_row(row):
        row = as_raw_row(row, where)
    images, embedded = _images(row, where, find)
    if row.get("conversations") is not None:
        question, scored = _conversation(row, where)
    else:
        question = fields.text(row, "question", where)
        scored = _scored_steps(row, where, consensus)
    placeholders = question.count(IMAGE_PLACEHOLDER)
    if images and placeholders not in (0, len(images)):
        raise ValueError(
            f"{where}: field 'question' has {placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(images)} images"
        )
    if row.get("source") is not None:
        source = fields.text(row, "source", where)
    identities = [
        place(image) if data is None else hashlib.sha256(data).hexdigest()
        for image, data in zip(images, embedded or [None] * len(images), strict=True)
    ]
    text = "\0".join([*identities, question])
    return {
        "source": source,
        "question_key": hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(),
        "images": images,
        "image_bytes": embedded,
        "question": question,
        "question_bare": _bare_question(row, question, len(images)),
        "question_accuracy": _question_accuracy(row, where),
        "num_mc_stopping": _stopping(row, where) if consensus != "judge" else "",
        **scored,
    }


def _stopping(row: Mapping[str, Any], where: str) -> str:
    if row.get("num_mc_search") == "binary":
        return "binary"  # also where continuations were stopped: it is the stronger of both
    return "" if row.get("num_mc_stopping") is None else fields.text(row, "num_mc_stopping", where)


def _question_accuracy(row: Mapping[str, Any], where: str) -> float | None:
    """The field ``question_accuracy``; None where it is absent or null, as in all released rows."""
    if row.get("question_accuracy") is None:
        return None
    return fields.number(row, "question_accuracy", where, minimum=0.0, maximum=1.0)


def _bare_question(row: Mapping[str, Any], question: str, num_images: int) -> str:
    """The question without the policy's instruction; the field ``question_orig`` if its images are those of the row."""
    original = row.get("question_orig")
    if not isinstance(original, str) or not original.strip() or row.get("conversations") is not None:
        return without_instruction(question)
    if num_images and original.count(IMAGE_PLACEHOLDER) not in (0, num_images):
        return without_instruction(question)
    return without_instruction(original)


def _images(row: Mapping[str, Any], where: str, find: Callable[[str], str]) -> tuple[list[str], list[bytes | None]]:
    """Paths or references of a row's images, and the bytes of those that are embedded."""
    name = "image" if row.get("image") is not None or "images" not in row else "images"
    value = row.get(name)
    parts = list(value) if isinstance(value, list) else [value]
    if not any(isinstance(part, Mapping | bytes) for part in parts):
        return [find(each) for each in fields.image_names({"image": value}, where)], []
    images: list[str] = []
    embedded: list[bytes | None] = []
    for part in parts:
        data, path = (part, None) if isinstance(part, bytes) else (None, part)
        if isinstance(part, Mapping):
            data, path = part.get("bytes"), part.get("path")
        if isinstance(data, bytes) and data:
            images.append(path if isinstance(path, str) else "")
            embedded.append(data)
        elif isinstance(path, str) and path.strip():
            images.append(find(path))
            embedded.append(None)
        else:
            raise fields.wrong_field(where, name, "a path, a list of paths, embedded pictures, or absent", value)
    return images, embedded


def _conversation(row: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    parsed = parse_conversation_row(row, where)
    if "=" in parsed.labels:
        raise ValueError(f"{where}: field 'conversations': labels '=' do not tell whether a step is right")
    unknown = [-1] * len(parsed.steps)
    scores = [1.0 if label == PLACEHOLDER else 0.0 for label in parsed.labels]
    return parsed.question, {
        "blank_steps": _blank_steps(parsed.steps),
        "system_prompt": parsed.system_prompt,
        "steps": parsed.steps,
        "mc": scores,
        "num_mc_correct": unknown,
        "num_mc_total": unknown,
    }


def _scored_steps(row: Mapping[str, Any], where: str, consensus: Consensus) -> dict[str, Any]:
    """Steps, scores and counts; a step with 0 of 0 continuations was not sampled and has no score.

    The released annotator cuts at every blank line and keeps blank pieces, so there may be blank steps.
    """
    rows = fields.items(row, "steps_with_score", where)
    texts = [_step_text(step, where, f"steps_with_score[{number}]") for number, step in enumerate(rows)]
    scored: dict[str, Any] = {"steps": texts, "mc": [], "num_mc_correct": [], "num_mc_total": []}
    scored |= {"blank_steps": _blank_steps(texts), "system_prompt": None}
    for number, step in enumerate(rows):
        parent = f"steps_with_score[{number}]."
        score = fields.number(step, "score", where, parent, minimum=0.0, maximum=1.0)
        correct, total = -1, -1
        if step.get("num_mc_total") is not None:
            total = fields.integer(step, "num_mc_total", where, parent, minimum=0)
            correct = fields.integer(step, "num_mc_correct", where, parent, minimum=0)
            if correct > total:
                raise fields.wrong_field(where, f"{parent}num_mc_correct", f"at most num_mc_total ({total})", correct)
        judge = None
        if step.get("judge") is not None:
            judge = float(fields.number(step, "judge", where, parent, minimum=0.0, maximum=1.0) > 0.5)
        scored["mc"].append(score_by(consensus, float("nan") if total == 0 else score, judge))
        if consensus == "judge":
            correct, total = -1, -1
        scored["num_mc_correct"].append(correct)
        scored["num_mc_total"].append(total)
    if all(math.isnan(scored["mc"][number]) for number in written_steps(texts)):
        why = {
            "monte_carlo": "no step has a continuation, so none has a score",
            "judge": "no step has a verdict in 'judge'",
            "agreement": "there is no step on which Monte Carlo and 'judge' agree",
        }
        raise ValueError(f"{where}: field 'steps_with_score': {why[consensus]}")
    return scored


def _blank_steps(steps: Sequence[str]) -> int:
    return len(steps) - len(written_steps(steps))


def _step_text(step: Any, where: str, parent: str) -> str:
    if not isinstance(step, dict):
        raise fields.wrong_field(where, parent, "an object", step)
    return fields.text(step, "step", where, f"{parent}.", blank=True)
