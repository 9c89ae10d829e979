"""Small copies of VisualPRM400K in the layouts in which it is released, written file by file.

``VisualPRM400K-v1.1-Raw`` holds ``annotations.zip`` (an entry for the folder, then a JSONL file a source) and
``images.zip``. Rows name their pictures "VisualPRM400K-v1.1-Raw/...", packed under "images/...", and those of nlvr2
without their folder.
``VisualPRM400K-v1.1`` holds the conversations in ``annotations.zip``, the pictures in the parts ``images.zip_aa``, ...,
and a ``meta.json``, whose roots the pictures of each source are relative to.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

AI2D = "ai2d_train_12k_en_20240410_extracted"
GEOMETRY = "geometry3k_en_20240402_extracted_open_ended_only"
NLVR2 = "nlvr2_en_20240910_extracted"
TEXT = "koniq10k_text_only_en"


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 24)) -> bytes:
    """An encoded picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {
    "ai2d/images/1.png": png((200, 0, 0)),
    "ai2d/images/2.png": png((0, 200, 0)),
    "Geometry3K/train/1471/img_diagram.png": png((0, 0, 200)),
    "nlvr2/images/train-1002-2-img0.png": png((90, 90, 0)),
    "nlvr2/images/train-1002-2-img1.png": png((0, 90, 90)),
}
"""By the path below ``images``."""


def raw_row(question: str, image: str | list[str] | None, scores: list[float], answer: str = "52") -> dict[str, Any]:
    """A raw row with a step for each score; a list for ``image`` makes a row about several pictures."""
    steps = [f"Step {number}: the angle is {number * 10} degrees." for number in range(len(scores))]
    row = {
        "image": image,
        "question": question,
        "question_orig": question.replace("<image>\n", ""),
        "answer": answer,
        "response": "\n\n".join(steps),
        "steps_with_score": [
            {"step": step, "score": score, "num_mc_correct": round(16 * score), "num_mc_total": 16}
            for step, score in zip(steps, scores, strict=True)
        ],
        "num_mc_sequences": 16,
    }
    return {name: value for name, value in row.items() if value is not None}


def raw_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows by source: one picture, several, none; one question about two pictures; two solutions of one question."""
    ai2d = "VisualPRM400K-v1.1-Raw/ai2d/images"
    return {
        AI2D: [
            raw_row("<image>\nWhat is shown?", f"{ai2d}/1.png", [0.5, 0.0]),
            raw_row("<image>\nWhat is shown?", f"{ai2d}/1.png", [1.0, 1.0, 1.0]),
            raw_row("<image>\nWhat is shown?", f"{ai2d}/2.png", [0.125]),
        ],
        GEOMETRY: [
            raw_row("<image>\nFind x.", "VisualPRM400K-v1.1-Raw/Geometry3K/train/1471/img_diagram.png", [0.125, 0.9375])
        ],
        NLVR2: [
            raw_row(
                "Image-1: <image>\nImage-2: <image>\nIs the left one red?",
                ["images/train-1002-2-img0.png", "images/train-1002-2-img1.png"],
                [0.75, 0.25],
            )
        ],
        TEXT: [raw_row("What is 2 + 2?", None, [1.0, 0.0])],
    }


def conversation_row(number: int, image: str | list[str] | None, question: str, labels: str) -> dict[str, Any]:
    """A conversation row; ``labels`` is a string of + and -."""
    first = f"### Question:\n{question}\n\n### Solution Process:\nStep 0."
    turns = [{"from": "system", "value": "You are an advanced AI assistant."}]
    for step, label in enumerate(labels):
        turns.append({"from": "human", "value": first if step == 0 else f"Step {step}."})
        turns.append({"from": "gpt", "value": label})
    row = {"id": number, "image": image, "conversations": turns}
    return {name: value for name, value in row.items() if value is not None}


def conversation_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows by source, in the release's spelling: pictures are relative to the roots of ``meta.json``."""
    return {
        f"{AI2D}_prm": [
            conversation_row(0, "images/1.png", "<image>\nWhat is shown?", "+-"),
            conversation_row(1, "images/2.png", "<image>\nWhat is shown?", "+"),
        ],
        f"{GEOMETRY}_prm": [conversation_row(0, "train/1471/img_diagram.png", "<image>\nFind x.", "++-")],
    }


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive with an entry for each folder, as `zip -r` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for folder in sorted({f"{name.partition('/')[0]}/" for name in members if "/" in name}):
            archive.writestr(zipfile.ZipInfo(folder), b"")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def split_file(path: Path, parts: int) -> list[Path]:
    """Replace a file by its parts, named as `split` names them: _aa, _ab, ..."""
    content = path.read_bytes()
    size = -(-len(content) // parts)
    path.unlink()
    written = []
    for number in range(parts):
        part = path.with_name(f"{path.name}_a{chr(ord('a') + number)}")
        part.write_bytes(content[number * size : (number + 1) * size])
        written.append(part)
    return written


def write_raw_release(folder: Path) -> Path:
    """``VisualPRM400K-v1.1-Raw`` in a folder; returns its path."""
    release = folder / "VisualPRM400K-v1.1-Raw"
    write_zip(
        release / "annotations.zip", {f"annotations/{source}.jsonl": jsonl(rows) for source, rows in raw_rows().items()}
    )
    write_zip(release / "images.zip", {f"images/{name}": content for name, content in PICTURES.items()})
    (release / "README.md").write_text("# VisualPRM400K-v1.1\n")
    return release


def write_conversation_release(folder: Path, parts: int = 3) -> Path:
    """``VisualPRM400K-v1.1`` in a folder, its pictures in so many parts; returns its path."""
    release = folder / "VisualPRM400K-v1.1"
    rows = conversation_rows()
    write_zip(
        release / "annotations.zip", {f"annotations/{source}.jsonl": jsonl(each) for source, each in rows.items()}
    )
    archive = write_zip(release / "images.zip", {f"images/{n}": c for n, c in PICTURES.items()}, zipfile.ZIP_STORED)
    split_file(archive, parts)
    roots = {f"{AI2D}_prm": "images/ai2d", f"{GEOMETRY}_prm": "images/Geometry3K"}
    meta = {
        source: {
            "root": f"VisualPRM400K-v1.1/{roots[source]}",
            "annotation": f"VisualPRM400K-v1.1/annotations/{source}.jsonl",
            "data_augment": False,
            "max_dynamic_patch": 6 if source.startswith("ai2d") else 12,
            "repeat_time": 2 if source.startswith("ai2d") else 1,
            "length": len(each),
        }
        for source, each in rows.items()
    }
    (release / "meta.json").write_text(json.dumps(meta, indent=2))
    return release
