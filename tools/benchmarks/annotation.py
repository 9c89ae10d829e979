r"""Speed of Monte Carlo annotation: continuations of the prefixes of solutions, sampled in three ways.

    OMP_NUM_THREADS=1 python -m tools.benchmarks.annotation --policy runs/quickstart/seed0/policy \
        --prompts runs/quickstart/seed0/world/prompts/annotations.jsonl
    OMP_NUM_THREADS=1 python -m tools.benchmarks.annotation --size small --questions 1 --generate-prefixes 4

- ``generate``: the model's own `generate`, one prefix at a time, with ``num_return_sequences``;
- ``engine``: :class:`lightning_modules.generation.transformers_engine.TransformersEngine`, in this process;
- ``server``: :class:`lightning_modules.generation.server_engine.ServerEngine`, with ``--server URL`` and
  ``--served-model NAME``: a server that holds the same policy (``--size small --write FOLDER`` writes a random one).

All sample K continuations of the same prefixes, in turn, in several rounds. Medians are printed, by wall time and by
the processor time of this process. Where ``generate`` takes too long it may be given some of the prefixes only, spread
over all of them. Prompt tokens are those that the language model reads in forwards over several tokens, padding and
repetitions included; text tokens are those that it reads one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from datamodules.policy.chat import render_prompt
from datamodules.storage.files import atomic_write_text
from lightning_modules.generation.server_engine import ServerEngine
from lightning_modules.generation.transformers_engine import TransformersEngine
from tools.benchmarks.annotation_work import TokenCount, Work, random_work, sampled_work, write_random_policy
from tools.benchmarks.scoring_variants import SIZES


@dataclass(frozen=True)
class Row:
    """What was measured of one way to sample.

    Attributes:
        way: Its name.
        continuations: Number of texts of a round.
        per_second: Continuations per second of wall time, median of the rounds.
        per_processor_second: The same by processor time of this process.
        over_generate: Wall time of ``generate`` / wall time, both per continuation; median of the rounds' ratios.
        over_generate_processor: The same by processor time; None for a server, whose own time is not seen here.
        prompt_tokens: Tokens of prompts read per continuation; None for a server.
        text_tokens: Tokens of texts read per continuation; None for a server.
    """

    way: str
    continuations: int
    per_second: float
    per_processor_second: float
    over_generate: float
    over_generate_processor: float | None
    prompt_tokens: float | None
    text_tokens: float | None


def generate(model: PreTrainedModel, processor: ProcessorMixin, work: Work) -> None:
    """The plain way, as a script would do it."""
    banned = TransformersEngine.of(model, processor).banned_ids.tolist()
    for request in work.requests:
        parameters = request.parameters or work.parameters
        inputs = processor(
            text=[render_prompt(processor, request.messages) + request.partial_response],
            images=[list(request.images)] if request.images else None,
            add_special_tokens=False,
            return_tensors="pt",
        ).to(model.device, model.dtype)
        with torch.no_grad():
            ids = cast("Any", model).generate(
                **inputs,
                do_sample=True,
                temperature=parameters.temperature,
                top_k=0,
                max_new_tokens=parameters.max_new_tokens,
                num_return_sequences=len(request.sample_keys),
                suppress_tokens=banned,
                pad_token_id=processor.tokenizer.pad_token_id,
            )
        processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall time and processor time of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(model: PreTrainedModel, processor: ProcessorMixin, work: Work, arguments: argparse.Namespace) -> list[Row]:
    """Interleaved rounds of all ways."""
    few = work.every(arguments.generate_prefixes)
    engine = TransformersEngine(arguments.samples_at_once)
    engine.attach(model, processor)
    ways: dict[str, tuple[Work, Callable[[], object]]] = {
        "generate": (few, lambda: generate(model, processor, few)),
        "engine": (work, lambda: engine.sample(work.requests, work.parameters)),
    }
    if arguments.server:
        server = ServerEngine([arguments.server], arguments.served_model, concurrency=arguments.concurrency)
        server.attach(model, processor)
        ways["server"] = (work, lambda: server.sample(work.requests, work.parameters))
    count = TokenCount(model)
    tokens = {name: count.during(run) for name, (_, run) in ways.items()}  # warms up, too
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, (some, run) in ways.items():
            wall, of_processor = seconds(run)
            spent[name].append((wall / some.continuations, of_processor / some.continuations))
    rows = []
    for name, (some, _) in ways.items():
        pairs = list(zip(spent["generate"], spent[name], strict=True))
        is_local = name != "server"
        prompt_tokens, text_tokens = (number / some.continuations if is_local else None for number in tokens[name])
        rows.append(
            Row(
                name,
                some.continuations,
                1 / statistics.median(wall for wall, _ in spent[name]),
                1 / statistics.median(of_processor for _, of_processor in spent[name]),
                statistics.median(plain[0] / own[0] for plain, own in pairs),
                statistics.median(plain[1] / own[1] for plain, own in pairs) if is_local else None,
                prompt_tokens,
                text_tokens,
            )
        )
    return rows


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = [
        "| way | continuations | a second | a processor second | over generate | by processor time "
        "| prompt tokens each | text tokens each |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        numbers = (row.over_generate, row.over_generate_processor, row.prompt_tokens, row.text_tokens)
        told = ["" if number is None else f"{number:.1f}" for number in numbers]
        rates = f"{row.per_second:.1f} | {row.per_processor_second:.1f}"
        lines.append(f"| {row.way} | {row.continuations} | {rates} | {' | '.join(told)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Command line of the tool; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="checkpoint of a policy; needs --prompts")
    parser.add_argument("--prompts", type=Path, help="prompt rows that it answers")
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="of a random policy, without --policy")
    parser.add_argument("--write", type=Path, help="only write the random policy to this folder")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--solutions", type=int, default=4, help="of each question")
    parser.add_argument("--samples", type=int, default=16, help="K, continuations of each prefix")
    parser.add_argument("--samples-at-once", type=int, default=TransformersEngine().max_samples_at_once)
    parser.add_argument("--generate-prefixes", type=int, help="so many prefixes for generate; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", help="address of a server, such as http://127.0.0.1:8765/v1")
    parser.add_argument("--served-model", default="policy", help="name of the policy there")
    parser.add_argument("--concurrency", type=int, default=16, help="requests that the server answers at once")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args(words)
    if bool(arguments.policy) != bool(arguments.prompts):
        parser.error("--policy and --prompts go together")
    size = SIZES[arguments.size]
    if arguments.write:
        write_random_policy(arguments.write, size)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.policy or Path(name)
        if not arguments.policy:
            write_random_policy(folder, size)
        model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        processor = AutoProcessor.from_pretrained(folder)
    counts = (arguments.questions, arguments.solutions, arguments.samples)
    work = (
        sampled_work(model, processor, arguments.prompts, *counts) if arguments.policy else random_work(size, *counts)
    )
    parameters = sum(weight.numel() for weight in model.parameters())
    print(
        f"{parameters / 1e6:.1f} million parameters, {len(work.requests)} prefixes, {work.continuations} continuations"
    )
    rows = measure(model, processor, work, arguments)
    print(table(rows))
    if arguments.output:
        atomic_write_text(arguments.output, json.dumps([asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
