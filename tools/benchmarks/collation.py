"""Speed of one DataLoader worker: pictures opened and cut into tiles, texts tokenised.

    OMP_NUM_THREADS=1 python -m tools.benchmarks.collation

Pictures are JPEG files of noise, which take longest to decode. A worker that makes c conversations/s keeps a device
busy that trains on c conversations/s; `throughput/data_wait_share` of a run says whether there are enough workers. The
speed of counting tokens, from the headers of the pictures, is printed, too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoProcessor

from datamodules.batching.collate import StepCollator
from datamodules.batching.lengths import TokenCounter
from datamodules.conversation.encoder import ConversationEncoder
from tools.benchmarks.indexing import STEPS, WORDS_PER_STEP
from tools.make_tiny_model import make_tiny_model

SIZES = [(448, 448), (896, 448), (896, 896), (1344, 896), (1792, 1344)]


def make_row(picture: Path, number: int) -> dict[str, Any]:
    """A row of usual length about a picture."""
    steps = [" ".join(f"word{number}" for _ in range(round(WORDS_PER_STEP))) for _ in range(round(STEPS))]
    return {
        "sample_id": f"rows:{number}",
        "source": "benchmark",
        "images": [str(picture)],
        "question": "What is the sum of all the numbers in the picture?",
        "steps": steps,
        "mc": [0.5] * len(steps),
        "num_mc_correct": [8] * len(steps),
        "num_mc_total": [16] * len(steps),
    }


def make_encoder(folder: Path) -> ConversationEncoder:
    """With tiles as InternVL cuts them: 448 pixels, at most 12 and a thumbnail."""
    make_tiny_model(
        folder,
        iter(["What is the sum of all the numbers in the picture? + - ="]),
        image_size=448,
        patch_size=14,
        vision_hidden_size=16,
        vision_layers=1,
        text_hidden_size=32,
        text_layers=1,
        heads=2,
        max_patches=12,
    )
    return ConversationEncoder(AutoProcessor.from_pretrained(folder), None, ("+", "-"))


def main() -> None:
    """Command line of the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="conversations of each size of picture")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = make_encoder(folder / "model")
        collator, counter = StepCollator(encoder), TokenCounter(encoder, 12)
        print("| picture | tiles | tokens | ms a conversation (processor time) | conversations/s of a worker |")
        print("|---|---:|---:|---:|---:|")
        rows: list[dict[str, Any]] = []
        for width, height in SIZES:
            path = folder / f"{width}x{height}.jpg"
            Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
            rows.append(make_row(path, len(rows)))
            batch = collator([rows[-1]])
            began = time.process_time()
            for _ in range(arguments.rounds):
                collator([rows[-1]])
            spent = (time.process_time() - began) / arguments.rounds
            tiles, tokens = len(batch.inputs["pixel_values"]), batch.inputs["input_ids"].shape[1]
            print(f"| {width} x {height} | {tiles} | {tokens} | {1000 * spent:.0f} | {1 / spent:.1f} |")
        began = time.process_time()
        counts, problems = counter(rows * 40)
        spent = time.process_time() - began
    if any(problems):
        raise ValueError(problems)
    print(f"\ntokens counted from headers: {len(counts) / spent:.0f} rows/s of a process")


if __name__ == "__main__":
    main()
