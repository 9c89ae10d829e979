"""Small benchmarks in the exact layouts of the released ones: VLMEvalKit tables, and Hugging Face datasets.

Rows are invented after real ones: pictures inside text and options, pictures named twice or never, back references,
several accepted answers, apostrophes in metadata, options called None and NA, answers like 007 and 3.0. Both layouts of
a benchmark hold the same questions in the same order.
"""

import base64
import io
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PillowImage

from datamodules.benchmarks.table import write_table


def picture(number: int) -> PillowImage.Image:
    """A picture that differs from the others in its first pixel."""
    pixels = np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    pixels[0, 0] = number
    return PillowImage.fromarray(pixels)


def shade(image: PillowImage.Image) -> int:
    """The number that :func:`picture` was made with."""
    red, green, blue = image.getpixel((0, 0))
    assert red == green == blue
    return red


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, format="PNG")
    return buffer.getvalue()


def cell(*numbers: int) -> str:
    """An image cell of a table: base64, or the text of a list of them."""
    texts = [base64.b64encode(encoded(number)).decode() for number in numbers]
    return texts[0] if len(texts) == 1 else str(texts)


def hub_image(number: int | None, name: str = "1.png"):
    return None if number is None else {"bytes": encoded(number), "path": name}


def save(rows, path: Path, image_columns=(), types=None) -> None:
    """Write a parquet file as the hub has it: pictures as structures of bytes and path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    plain = Dataset.from_dict({name: values for name, values in columns.items() if name not in image_columns})
    features = dict(plain.features) | {name: Image() for name in image_columns} | dict(types or {})
    Dataset.from_dict(columns, features=Features({name: features[name] for name in columns})).to_parquet(path)


# ---- MMMU

MMMU_SUBJECTS = (
    "Accounting Agriculture Architecture_and_Engineering Art Art_Theory Basic_Medical_Science Biology Chemistry "
    "Clinical_Medicine Computer_Science Design Diagnostics_and_Laboratory_Medicine Economics Electronics "
    "Energy_and_Power Finance Geography History Literature Manage Marketing Materials Math Mechanical_Engineering "
    "Music Pharmacy Physics Psychology Public_Health Sociology"
).split()

# id, question, options, answer, pictures
ORDER = "<image 2> and <image 1>: which is older?"
MMMU_ROWS = {
    "Art": [
        (
            "validation_Art_1",
            "<image 2> and <image 1>: which is older?",
            ["<image 3>", "<image 2>"],
            "B",
            [11, 12, 13, 14],
        ),
        ("validation_Art_2", "Which period does <image 1> belong to?", ["None", "NA", "It's Baroque"], "A", [15]),
    ],
    "Basic_Medical_Science": [("validation_Basic_Medical_Science_10", "Name the cell. <image 1>", [], "C", [16])],
    "Math": [
        ("validation_Math_15", "How many turns does it make? <image 1>", [], "['24/7', '3.429']", [17]),
        ("validation_Math_16", "Pick one of <image 1>.", list("abcdefghi"), "I", [18]),
    ],
}


def mmmu_rows():
    """For each subject its rows; those without one above get a plain question."""
    for number, subject in enumerate(MMMU_SUBJECTS):
        plain = [(f"validation_{subject}_1", "What is shown in <image 1>?", ["a", "b"], "A", [100 + number])]
        yield subject, MMMU_ROWS.get(subject, plain)


def mmmu_table(folder: Path) -> None:
    rows = [
        {"index": "dev_Art_1", "image": cell(1), "question": "An example <image 1>", "A": "x", "B": "y", "answer": "A"}
        | {"category": "Art", "l2-category": "Art & Design", "split": "dev"}
    ]
    for subject, questions in mmmu_rows():
        for name, question, options, answer, images in questions:
            rows.append(
                {"index": name, "image": cell(*images), "question": question}
                | dict(zip("ABCDEFGHI", options, strict=False))
                | {"answer": answer, "category": subject, "l2-category": "any", "split": "validation"}
            )
    write_table(folder / "MMMU_DEV_VAL.tsv", rows)


def mmmu_hub(folder: Path) -> None:
    for subject, questions in mmmu_rows():
        for split in ("dev", "validation"):
            rows = [
                {"id": name.replace("validation", split), "question": question, "options": str(options)}
                | {"explanation": ""}
                | {f"image_{n + 1}": hub_image(images[n] if n < len(images) else None) for n in range(7)}
                | {"img_type": "['Paintings']", "answer": answer, "topic_difficulty": "Medium"}
                | {"question_type": "multiple-choice" if options else "open", "subfield": "Drawing"}
                for name, question, options, answer, images in questions
            ]
            path = folder / "MMMU" / subject / f"{split}-00000-of-00001.parquet"
            save(rows, path, [f"image_{n}" for n in range(1, 8)])


# ---- MathVista

# pid, query, choices, answer, question_type, answer_type, precision, unit, task, skills
HEAVY = "Hint: integer\nQuestion: How heavy? (Unit: g)"
YES, NONE = ["Yes", "No"], ["None", "don't know"]
IS_IT = "Question: Is it?\nChoices:\n(A) Yes\n(B) No"
COLOUR = "Question: Colour?\nChoices:\n(A) None\n(B) don't know"
MATHVISTA_ROWS = [
    ("1", "Question: Size?", None, "1.2", "free_form", "float", 1.0, None, "textbook", ["scientific reasoning"]),
    ("2", HEAVY, None, "1000", "free_form", "integer", None, "g", "figure", ["arithmetic"]),
    ("3", IS_IT, YES, "No", "multi_choice", "text", None, None, "figure", ["statistical", "arithmetic"]),
    ("4", "Question: Which years?", None, "[1999, 2001]", "free_form", "list", None, None, "figure", []),
    ("5", COLOUR, NONE, "None", "multi_choice", "text", None, None, "figure", []),
]
_MATHVISTA_COLUMNS = "pid query choices answer question_type answer_type precision unit task skills".split()


def mathvista_table(folder: Path) -> None:
    rows = []
    for number, values in enumerate(MATHVISTA_ROWS):
        row = dict(zip(_MATHVISTA_COLUMNS, values, strict=True))
        choices = row["choices"] or []
        is_choice = bool(choices)
        rows.append(
            {"index": row["pid"], "image": cell(20 + number) if number != 1 else "1", "question": row["query"]}
            | {"answer": row["answer"], "answer_option": "AB"[choices.index(row["answer"])] if is_choice else ""}
            | {"choices": str(choices), "question_type": row["question_type"], "answer_type": row["answer_type"]}
            | {"precision": "" if row["precision"] is None else str(row["precision"]), "unit": row["unit"] or ""}
            | {"task": row["task"], "skills": str(row["skills"]), "category": "general-vqa", "context": "photo"}
            | {"grade": "daily life", "source": "PMC-VQA's", "language": "english"}
        )
    write_table(folder / "MathVista_MINI.tsv", rows)


def mathvista_hub(folder: Path) -> None:
    rows = []
    for number, values in enumerate(MATHVISTA_ROWS):
        row = dict(zip(_MATHVISTA_COLUMNS, values, strict=True))
        metadata = {"category": "general-vqa", "context": "photo", "grade": "daily life", "img_height": 12}
        metadata |= {"img_width": 10, "language": "english", "skills": row["skills"], "source": "PMC-VQA's"}
        metadata |= {"split": "testmini", "task": row["task"]}
        rows.append(
            {"pid": row["pid"], "question": "How long?", "image": f"images/{row['pid']}.jpg"}
            | {"decoded_image": hub_image(20 if number == 1 else 20 + number)}
            | {name: row[name] for name in ("choices", "unit", "precision", "answer", "question_type", "answer_type")}
            | {"metadata": metadata, "query": row["query"]}
        )
    types = {"choices": List(Value("string")), "precision": Value("float64"), "unit": Value("string")}
    types["metadata"] = {name: Value("string") for name in rows[0]["metadata"]} | {"skills": List(Value("string"))}
    types["metadata"] |= {"img_height": Value("int64"), "img_width": Value("int64")}
    save(
        rows,
        folder / "MathVista" / "data" / "testmini-00000-of-00001-725687bf7a18d64b.parquet",
        ["decoded_image"],
        types,
    )


# ---- MathVision

# id, question, options, answer, level, subject
MATHVISION_ROWS = [
    (
        "4",
        "Which kite has the longest string?\n<image1>",
        ["A", "B", "C", "D", "E"],
        "C",
        1,
        "metric geometry - length",
    ),
    ("7", "How many cubes? <image1>", [], "007", 2, "counting"),
    ("8", "How long is it? <image1>", ["3.0 cm", "6 cm", "NA", "None", "$\\pi$"], "B", 2, "solid geometry"),
]


def mathvision_table(folder: Path) -> None:
    rows = [
        {"index": name, "image": cell(30 + number), "question": question, "choices": str(options), "answer": answer}
        | {"category": subject, "level": str(level)}
        for number, (name, question, options, answer, level, subject) in enumerate(MATHVISION_ROWS)
    ]
    write_table(folder / "MathVision.tsv", rows)
    write_table(folder / "MathVision_MINI.tsv", rows[1:])


def mathvision_hub(folder: Path) -> None:
    rows = [
        {"id": name, "question": question, "options": options, "image": f"images/{name}.jpg"}
        | {"decoded_image": hub_image(30 + number), "answer": answer, "solution": None, "level": level}
        | {"subject": subject}
        for number, (name, question, options, answer, level, subject) in enumerate(MATHVISION_ROWS)
    ]
    types = {"options": List(Value("string")), "solution": Value("string")}
    folder = folder / "MathLLMs" / "MathVision" / "data"
    save(rows[:2], folder / "test-00000-of-00002-0a1b2c.parquet", ["decoded_image"], types)
    save(rows[2:], folder / "test-00001-of-00002-3d4e5f.parquet", ["decoded_image"], types)
    save(rows[1:], folder / "testmini-00000-of-00001-6a7b8c.parquet", ["decoded_image"], types)


# ---- MathVerse

MATHVERSE_REQUEST = "According to the question shown in the image, please directly answer the question and provide "
# sample_index, version, request, question_for_eval, answer, question_type, subject
ANGLE = "Angle CED is ()\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°"
DOMAIN = "Find the domain of Euler's function."
MATHVERSE_ROWS = [
    ("1", "Text Dominant", "", ANGLE, "D", "multi-choice", "Plane Geometry"),
    ("5", "Vision Only", "the correct option letter, e.g., A, B, C, D.", ANGLE, "D", "multi-choice", "Plane Geometry"),
    ("10", "Vision Only", "the final value, e.g., 1, 2.5, 300.", DOMAIN, "[-2,2]", "free-form", "Functions"),
]


def mathverse_metadata(subject: str) -> dict[str, str]:
    return {"split": "testmini", "source": "Geometry3K", "subject": subject, "subfield": "Euler's line"}


def mathverse_table(folder: Path) -> None:
    rows = [
        {"index": name, "image": cell(40 + number), "question": MATHVERSE_REQUEST + request, "query_cot": ""}
        | {"question_for_eval": full, "answer": answer, "problem_version": version}
        | {"metadata": str(mathverse_metadata(subject))}
        for number, (name, version, request, full, answer, _, subject) in enumerate(MATHVERSE_ROWS)
    ]
    write_table(folder / "MathVerse_MINIVOnly.tsv", rows)  # as it is called where it is downloaded from


def mathverse_hub(folder: Path) -> None:
    rows = [
        {"sample_index": name, "problem_index": "1", "problem_version": version}
        | {"question": "" if version == "Vision Only" else full, "image": hub_image(40 + number), "answer": answer}
        | {"question_type": kind, "metadata": mathverse_metadata(subject), "query_wo": MATHVERSE_REQUEST + request}
        | {"query_cot": "", "question_for_eval": full}
        for number, (name, version, request, full, answer, kind, subject) in enumerate(MATHVERSE_ROWS)
    ]
    save(rows, folder / "MathVerse" / "testmini.parquet", ["image"])
    save(rows[:1], folder / "MathVerse" / "testmini_text_only.parquet", ["image"])


# ---- DynaMath

# question, answer type, gold of a variant
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct".split()
DYNAMATH_SEEDS = [
    ("Period of y = a*sin({v}x)?", "float", lambda v: f"{2 * np.pi / v:.4f}", "algebra", "high school"),
    ("Sum? choices: (A) {v} (B) 0", "multiple choice", lambda _: "A", "arithmetic", "elementary school"),
    ("Which month is number {v}?", "text", lambda v: MONTHS[v - 1], "chart", "undergraduate"),
]


def dynamath_rows():
    for seed, (question, kind, gold, subject, level) in enumerate(DYNAMATH_SEEDS, start=1):
        for variant in range(1, 11):
            yield seed, variant, question.replace("{v}", str(variant)), kind, gold(variant), subject, level


def dynamath_table(folder: Path) -> None:
    rows = [
        {"index": f"{seed}-{variant}", "image": cell(50 + variant), "question": question, "answer": gold}
        | {"answer_type": kind, "subject": subject, "knowledge_level": level, "qid": str(seed), "varid": str(variant)}
        for seed, variant, question, kind, gold, subject, level in dynamath_rows()
    ]
    rows.sort(key=lambda row: int(row["varid"]))
    write_table(folder / "DynaMath.tsv", rows)


def dynamath_hub(folder: Path) -> None:
    for variant in range(1, 11):
        rows = [
            {"id": str(seed), "question": question, "image": "x.png", "decoded_image": hub_image(50 + of_row)}
            | {"ground_truth": gold, "answer_type": kind, "subject": subject, "knowledge_level": level}
            for seed, of_row, question, kind, gold, subject, level in dynamath_rows()
            if of_row == variant
        ]
        path = folder / "DynaMath_Sample" / "data" / f"sample_variant{variant}-00000-of-00001.parquet"
        save(rows, path, ["decoded_image"])


# ---- We-Math

# ID, key, question, options, answer
WEMATH_ROWS = [
    ("1", "2steps_1", "What is the area?", ["12", "24", "36", "No correct answer"], "B"),
    ("1", "2steps_2", "What is the volume?", ["None", "NA", "36 cm³", "No correct answer"], "A"),
    ("1", "2steps_multi", "How many in all?", ["1.5", "3.0", "007"], "C"),
]


def wemath_table(folder: Path) -> None:
    rows = [
        {"index": f"{group}-{key}", "image": cell(60 + number), "question": question}
        | {letter: (options[place] if place < len(options) else "") for place, letter in enumerate("ABCDEFGH")}
        | {"answer": answer, "ID": group, "split": "testmini", "key": key, "question number": str(number)}
        | {"knowledge concept": "Area of a square's parts", "knowledge concept description": "", "requirement": "x"}
        for number, (group, key, question, options, answer) in enumerate(WEMATH_ROWS)
    ]
    write_table(folder / "WeMath.tsv", rows)


def wemath_hub(folder: Path) -> None:
    signs = [("; ", ". "), ("；", "．、"), ("; ", ". ")]
    rows = []
    for number, (group, key, question, options, answer) in enumerate(WEMATH_ROWS):
        between, after = signs[number]
        option = between.join(f"{letter}{after}{text}" for letter, text in zip("ABCDEFGH", options, strict=False))
        rows.append(
            {"ID": group, "split": "testmini", "knowledge concept": "Area of a square's parts", "question": question}
            | {"option": option, "answer": answer, "image_path": hub_image(60 + number), "key": key}
            | {"question number": number, "knowledge concept description": ""}
        )
    save(rows, folder / "We-Math" / "data" / "testmini-00000-of-00001.parquet", ["image_path"])


# ---- LogicVista

# id, question, answer, skill
LOGICVISTA_ROWS = [
    (
        "v1_1",
        "Which follows? Select from A, B and C. (A) True (B)False (C)Insufficient Information",
        "C",
        ["deductive"],
    ),
    ("v1_2", "Which two? Select from (A-D)", "B, D", ["inductive", "spatial"]),
    ("v1_20", "How many gears turn?", "3", ["mechanical"]),
    ("v1_382", "", "", []),
]


def logicvista_table(folder: Path) -> None:
    rows = [
        {"index": name, "image": cell(70 + number), "question": question, "answer": answer, "skill": str(skill)}
        for number, (name, question, answer, skill) in enumerate(LOGICVISTA_ROWS)
    ]
    write_table(folder / "LogicVista.tsv", rows)


def logicvista_hub(folder: Path) -> None:
    rows = [
        {"question": question, "answer": answer, "reasoning": "So it is.", "skill": skill, "id": name}
        | {"image": hub_image(70 + number), "imagesource": "images/x.png", "liscenced": "yes"}
        for number, (name, question, answer, skill) in enumerate(LOGICVISTA_ROWS)
    ]
    types = {"skill": List(Value("string"))}
    save(rows, folder / "LogicVista" / "data" / "test-00000-of-00001.parquet", ["image"], types)


TABLES = {
    "MMMU": mmmu_table,
    "MathVista": mathvista_table,
    "MathVision": mathvision_table,
    "MathVerse-VO": mathverse_table,
    "DynaMath": dynamath_table,
    "WeMath": wemath_table,
    "LogicVista": logicvista_table,
}
HUBS = {
    "MMMU": mmmu_hub,
    "MathVista": mathvista_hub,
    "MathVision": mathvision_hub,
    "MathVerse-VO": mathverse_hub,
    "DynaMath": dynamath_hub,
    "WeMath": wemath_hub,
    "LogicVista": logicvista_hub,
}
