"""The model card of an exported reward model: where it comes from, how good it is, how to score with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from datamodules.conversation.chat_layout import ChatLayout
from datamodules.conversation.messages import QUESTION_HEADER, SOLUTION_HEADER
from lightning_modules.metrics.table import Cell, Table
from lightning_modules.objectives.step_loss import LossOptions
from lightning_modules.objectives.table import objective_named
from lightning_modules.protocol import Protocol
from lightning_modules.training.record import TrainingRecord


@dataclass(frozen=True)
class CardFacts:
    """What a model card says.

    Attributes:
        protocol: The model's protocol.
        loss: Options of the loss it was trained with.
        base_model: Name on the hub, or folder, of the model that training started from.
        record: What the model was trained on; None if it is not known.
        layout: How its conversations are rendered.
        class_token_ids: Vocabulary ids of the class tokens.
        reads_images: False for a text-only model.
        opens_with_prompt: The folder's chat template writes the system prompt itself.
    """

    protocol: Protocol
    loss: LossOptions
    base_model: str
    record: TrainingRecord | None
    layout: ChatLayout
    class_token_ids: Sequence[int]
    reads_images: bool
    opens_with_prompt: bool


def model_card(facts: CardFacts) -> str:
    """The card in Markdown, with the metadata block that the hub reads.

    Texts from outside (names, prompts) are escaped: they cannot end a block or become markup.
    """
    is_on_hub = not Path(facts.base_model).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", facts.base_model) is not None
    data = ModelCardData(
        license="other",
        library_name="transformers",
        pipeline_tag="image-text-to-text" if facts.reads_images else "text-classification",
        base_model=facts.base_model if is_on_hub else None,
        tags=["process-reward-model", "reward-model", f"objective-{facts.protocol.objective}"],
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        "# Outcome reward model" if facts.protocol.response_as_one_step else "# Process reward model",
        _introduction(facts),
        "## Training\n\n" + _training(facts),
        "## Results\n\n" + _results(facts.record),
        "## Scoring with transformers alone\n\n"
        + _explanation(facts)
        + "\n\n"
        + _fenced(plain_scorer(facts), "python"),
        "## Scoring with the package it was trained with\n\n" + _fenced(_package_scorer(facts), "python"),
        "## Licence\n\nThe licence of these weights is that of the base model and of the training data; state it in "
        "the metadata above before you publish them.",
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """A text as one line of Markdown that shows it as it is."""
    line = " ".join(text.split())
    line = re.sub(r"([\\`*_{}\[\]()#+!|~$-])", r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    """A text as a code span."""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _fenced(text: str, language: str = "") -> str:
    """A block of code; its fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _introduction(facts: CardFacts) -> str:
    low, high = facts.protocol.score_range
    what = "the images, the question and" if facts.reads_images else "the question and"
    tokens = ", ".join(map(_code, facts.protocol.class_tokens or []))
    return (
        f"It reads {what} a step-by-step solution, and gives each step a score from {low:g} to {high:g}. "
        f"Fine-tuned from {escaped(_shown_name(facts.base_model))}. How it reads a response is in "
        f"`process_reward_model.json`; its weights are an ordinary `transformers` checkpoint. Scores are read from the "
        f"probabilities of the class tokens {tokens}."
    )


def _shown_name(name: str) -> str:
    """Of a local folder its last part: where it lay is nobody's business."""
    return Path(name).name if Path(name).exists() else name


def _training(facts: CardFacts) -> str:
    protocol, loss = facts.protocol, facts.loss
    learned = objective_named(protocol.objective).card_sentence
    options = {name: value for name, value in vars(loss).items() if value != getattr(LossOptions(), name)}
    lines = [
        f"- Objective: {learned.format(threshold=protocol.threshold)} (`{protocol.objective}`).",
        f"- Loss options: {', '.join(_code(f'{name}: {value}') for name, value in options.items()) or 'none'}.",
        "- The whole response is one step."
        if protocol.response_as_one_step
        else f"- At most {protocol.max_steps} steps a response; longer ones have neighbouring steps merged.",
        f"- Response score: `{protocol.aggregation}` of the step scores.",
    ]
    if protocol.step_threshold is not None:
        chosen_on = escaped(protocol.step_threshold_chosen_on or "an unnamed set")
        lines.append(
            f"- A step counts as right from a score of {protocol.step_threshold:.4g} on, chosen on {chosen_on}."
        )
    if protocol.calibration is not None:
        fitted_on = escaped(protocol.calibration.fitted_on or "an unnamed set")
        lines.append(f"- Step scores are calibrated: {protocol.calibration.method}, fitted on {fitted_on}.")
    record = facts.record
    if record is None:
        lines.append("- What it was trained on was not recorded.")
    else:
        lines.append(f"- {record['steps']} optimizer steps, {record['epochs']} whole epochs.")
    text = "\n".join(lines)
    if record is not None and record["sources"]:
        rows = [[Cell(escaped(name)), Cell(f"{count:,}")] for name, count in sorted(record["sources"].items())]
        rows.append([Cell("All"), Cell(f"{sum(record['sources'].values()):,}")])
        text += "\n\n" + Table("Sources of annotations", ["Source", "Rows"], rows).to_markdown().strip()
    if protocol.system_prompt:
        text += "\n\nSystem prompt:\n\n" + _fenced(protocol.system_prompt, "text")
    return text


def _results(record: TrainingRecord | None) -> str:
    metrics: Mapping[str, float] = record["metrics"] if record else {}
    if not metrics:
        return "No evaluation was logged by the run that made these weights."
    rows = [[Cell(escaped(name)), Cell(f"{value:.4f}")] for name, value in metrics.items()]
    note = (
        "`best_of_n/overall`: mean over benchmarks of the accuracy of the best-scored response; "
        "`process_bench/macro_f1`: step judgement on VisualProcessBench; `validation/...`: on held-out rows of the "
        "annotations. All in [0, 1] but for losses and counts."
    )
    table = Table("Last metrics of the training run", ["Metric", "Value"], rows, note)
    return table.to_markdown().strip()


def _explanation(facts: CardFacts) -> str:
    steps = "the whole response" if facts.protocol.response_as_one_step else "one step"
    prompt = ""
    if facts.protocol.system_prompt:
        prompt = (
            " The system prompt is in the chat template and need not be given."
            if facts.opens_with_prompt
            else " The chat template has no place for the system prompt: it is given below."
        )
    return f"A user turn holds {steps}; every assistant turn is the first class token, whatever the judgement.{prompt}"


def plain_scorer(facts: CardFacts) -> str:
    """A program of `torch` and `transformers` alone that scores the steps of a response; the last line has the scores.

    An isotonic calibration needs `numpy`, too.

    It runs in the exported folder, where ``picture.png`` is to lie if the model reads images.
    """
    protocol = facts.protocol
    tokens = protocol.class_tokens or []
    model_class = "AutoModelForImageTextToText" if facts.reads_images else "AutoModelForCausalLM"
    reader = "AutoProcessor" if facts.reads_images else "AutoTokenizer"
    # What resizes pictures is no part of the processor's files: `transformers` would choose by what is installed.
    backend = protocol.image_backend if facts.reads_images else None
    answer = ["First, 2 + 3 = 5.", "So the answer is 5."]
    steps = json.dumps(["\n\n".join(answer)] if protocol.response_as_one_step else answer)
    pictures = 'images = [Image.open("picture.png").convert("RGB")]'
    is_isotonic = protocol.calibration is not None and protocol.calibration.method == "isotonic"
    lines = [
        *(["import numpy as np"] if is_isotonic else []),
        "import torch",
        *(["from PIL import Image"] if facts.reads_images else []),
        f"from transformers import {', '.join([*(['AutoImageProcessor'] if backend else []), model_class, reader])}",
        "",
        'folder, question = ".", "How much is 2 + 3?"',
        *([pictures] if facts.reads_images else []),
        f"steps = {steps}",
        "",
        f"processor = {reader}.from_pretrained(folder)",
        *(
            [f'processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="{backend}")']
            if backend
            else []
        ),
        f"model = {model_class}.from_pretrained(folder).eval()",
        f"class_ids, worth = {list(facts.class_token_ids)}, torch.tensor({list(protocol.class_values)})  # of {tokens}",
        f"messages, scores = {_opening_turn(facts)}, []",
        "for number, step in enumerate(steps):",
        f"    text = step if number else f{json.dumps(QUESTION_HEADER + '{question}' + SOLUTION_HEADER + '{step}')}",
        *_user_turn(facts),
        f'    messages.append({{"role": "assistant", "content": {_content(facts, repr(tokens[0]))}}})',
        f'    end = {{"role": "user", "content": {_content(facts, repr("."))}}}  # behind the verdict, not read',
        "    prompt = processor.apply_chat_template([*messages, end], tokenize=False)",
        '    options = {"add_special_tokens": False, "return_tensors": "pt"}',
        "    inputs = processor(text=[prompt], images=[images] if images else None, **options)"
        if facts.reads_images
        else "    inputs = processor([prompt], **options)",
        '    place = (inputs["input_ids"][0] == class_ids[0]).nonzero()[-1].item() - 1',
        "    with torch.no_grad():",
        "        logits = model(**inputs).logits[0, place, class_ids].float()",
        f"    scores.append((logits.{_tempered(protocol)}softmax(-1) @ worth).item())",
        *_isotonic(protocol),
        "print(scores)",
    ]
    return "\n".join(lines)


def _tempered(protocol: Protocol) -> str:
    calibration = protocol.calibration
    is_tempered = calibration is not None and calibration.method == "temperature"
    return f"div({calibration.temperature!r})." if calibration is not None and is_tempered else ""


def _isotonic(protocol: Protocol) -> list[str]:
    calibration = protocol.calibration
    if calibration is None or calibration.method != "isotonic":
        return []
    return [
        f"known, calibrated = {calibration.scores}, {calibration.values}",
        "scores = np.interp(scores, known, calibrated).tolist()",
    ]


def _content(facts: CardFacts, text: str) -> str:
    """The content of a message, given the program text of what it says."""
    return f'[{{"type": "text", "text": {text}}}]' if facts.reads_images else text


def _opening_turn(facts: CardFacts) -> str:
    """The messages at the start: a system turn where the template does not write it by itself."""
    prompt = facts.protocol.system_prompt
    if not prompt or facts.opens_with_prompt or facts.layout.folds_system_prompt:
        return "[]"
    return f'[{{"role": "system", "content": {_content(facts, repr(prompt))}}}]'


def _user_turn(facts: CardFacts) -> list[str]:
    """Lines that append a step; the first user turn holds images, and a system prompt that has no other place."""
    layout = facts.layout
    prompt = repr(f"{facts.protocol.system_prompt}\n\n")
    if not facts.reads_images:
        folded = [f"    text = text if number else {prompt} + text"] if layout.folds_system_prompt else []
        return [*folded, '    messages.append({"role": "user", "content": text})']
    if facts.protocol.image_layout == "in_question":
        first = _images_in_question()
    elif layout.folds_system_prompt and layout.moves_images:
        image = repr(getattr(layout.processor, "image_token", ""))
        first = [f"        content[0]['text'] = {prompt} + {image} * len(images) + text"]
    else:
        first = ['        content = [{"type": "image"} for _ in images] + content']
        if layout.folds_system_prompt:
            first.append(f'        content.insert(0, {{"type": "text", "text": {prompt}}})')
    return [
        '    content = [{"type": "text", "text": text}]',
        "    if number == 0:",
        *first,
        '    messages.append({"role": "user", "content": content})',
    ]


def _images_in_question() -> list[str]:
    """Lines that put images where :func:`datamodules.conversation.messages.place_images` puts them."""
    header = json.dumps(QUESTION_HEADER)
    return [
        f'        content = [{{"type": "text", "text": {header}}}]',
        "        for count, _ in enumerate(images, start=1):",
        '            name = [{"type": "text", "text": f"Image-{count}: "}] if len(images) > 1 else []',
        '            content += [*name, {"type": "image"}, {"type": "text", "text": "\\n"}]',
        f'        content.append({{"type": "text", "text": text.removeprefix({header})}})',
    ]


def _package_scorer(facts: CardFacts) -> str:
    image = 'Image.open("picture.png")' if facts.reads_images else "None"
    lines = [
        *(["from PIL import Image"] if facts.reads_images else []),
        "from lightning_modules.process_reward import ProcessRewardModel",
        "",
        'model = ProcessRewardModel.from_pretrained(".")',
        f'scored = model.score({image}, "How much is 2 + 3?", ["First, 2 + 3 = 5.\\n\\nSo the answer is 5."])',
        "print(scored.step_scores, scored.response_scores)",
    ]
    return "\n".join(lines)
