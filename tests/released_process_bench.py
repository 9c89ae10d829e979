"""VisualProcessBench in the exact released layout and size: ``test.jsonl`` and ``images.zip``."""

import io
import json
import random
import zipfile

from PIL import Image

SAMPLES = {"MMMU": 267, "MathVision": 712, "MathVerse": 1026, "DynaMath": 570, "WeMath": 291}
STEPS = {
    "MMMU": (1698, 708, 274),
    "MathVision": (3875, 2350, 700),
    "MathVerse": (5767, 2960, 900),
    "DynaMath": (3469, 1091, 500),
    "WeMath": (1776, 582, 300),
}
"""Correct, incorrect and neutral steps; the neutral ones are known in all only (2,674), their shares are made up."""
POLICIES = ("GPT-4o", "Claude-3.5-Sonnet", "QvQ-72B-Preview", "InternVL2.5-78B")


def released_rows(seed=0):
    """2,866 rows with the released numbers of steps; two pictures for every tenth MMMU question."""
    rng = random.Random(seed)
    rows = []
    for source, count in SAMPLES.items():
        labels = [label for label, number in zip((1, -1, 0), STEPS[source], strict=True) for _ in range(number)]
        rng.shuffle(labels)
        cuts = sorted(rng.sample(range(1, len(labels)), count - 1))
        for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(labels)], strict=True)):
            several = source == "MMMU" and number % 10 == 0
            names = [f"images/{source}/{number}_{picture}.png" for picture in range(2 if several else 1)]
            question = "Which of the two figures is larger?\nA. <image>\nB. <image>" if several else "How large is x?"
            rows.append(
                {
                    "image": names,
                    "question": question,
                    "answer": "B",
                    "response": {
                        "steps": [f"Step {place + 1}: $x_{place} = {place}$ cm²." for place in range(end - begin)],
                        "process_correctness": labels[begin:end],
                    },
                    "policy_model": POLICIES[number % 4],
                    "data_source": source,
                }
            )
    return rows


def write_released(folder, rows, zipped=True):
    """Write rows and their pictures, each of another size, into ``images.zip`` or unpacked."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    pictures = {}
    for number, name in enumerate(dict.fromkeys(name for row in rows for name in row["image"])):
        buffer = io.BytesIO()
        Image.new("RGB", (8 + number % 5, 8), (number % 256, 0, 0)).save(buffer, format="PNG")
        pictures[name] = buffer.getvalue()
    if zipped:
        with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("images/")
            for name, data in pictures.items():
                archive.writestr(name, data)
    else:
        for name, data in pictures.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder
