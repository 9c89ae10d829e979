"""Both layouts of each benchmark, in released shapes: the same questions come out, and they are those that went in."""

import base64
import io
import json
import logging
import shutil
import zipfile

import pytest
from datasets import load_dataset
from PIL import Image
from released_benchmarks import HUBS, LOGICVISTA_ROWS, MMMU_SUBJECTS, TABLES, cell, save, shade

from datamodules.benchmarks import BENCHMARKS, VISUAL_BENCHMARKS, BenchmarkOptions, benchmarks_in, make_benchmark
from datamodules.benchmarks.hub import HubPart, find_files
from datamodules.benchmarks.table import read_table, write_table
from datamodules.storage.images import ImageError


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folders = {}
    for layout, writers in (("tables", TABLES), ("hub", HUBS)):
        folders[layout] = tmp_path_factory.mktemp(layout)
        for write in writers.values():
            write(folders[layout])
    return folders


@pytest.fixture
def read(released):
    def make(name, layout, **options):
        benchmark = BENCHMARKS[name](**options)
        return benchmark, {question.question_id: question for question in benchmark.read(released[layout])}

    return make


@pytest.mark.parametrize("name", VISUAL_BENCHMARKS)
def test_layouts_agree(read, name):
    one, tables = read(name, "tables")
    _, hub = read(name, "hub")
    assert list(tables) == list(hub)
    for key, question in tables.items():
        found = hub[key]
        for attribute in ("question", "gold", "options", "answer_type", "precision", "metadata"):
            assert getattr(found, attribute) == getattr(question, attribute), (key, attribute)
        assert [shade(image) for image in found.images] == [shade(image) for image in question.images]
    assert one.mismatches[0].startswith(f"{len(tables)} scored questions, the release has {one.release.questions}")


def test_a_folder_is_searched_for_both_layouts(released, tmp_path, caplog):
    assert benchmarks_in(released["tables"]) == benchmarks_in(released["hub"]) == list(VISUAL_BENCHMARKS)
    assert not [
        record for record in caplog.records if record.levelno >= logging.WARNING
    ]  # the text ones may be missing
    HUBS["WeMath"](tmp_path)
    assert benchmarks_in(tmp_path) == ["WeMath"]
    assert "not there: MMMU, MathVista, MathVision, MathVerse-VO, DynaMath, LogicVista, GSM8K" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING


# ---- what the rows become, written out


@pytest.mark.parametrize("layout", ["tables", "hub"])
def test_mmmu(read, layout):
    benchmark, questions = read("MMMU", layout)
    first = questions["validation_Art_1"]
    assert first.question == "<image> and <image>: which is older?\nA. <image>\nB. <image>"
    # Named out of order and twice; the fourth is never named.
    assert [shade(image) for image in first.images] == [12, 11, 13, 12]
    assert questions["validation_Art_2"].options == {"A": "None", "B": "NA", "C": "It's Baroque"}
    assert benchmark.grade(questions["validation_Art_2"], "\\boxed{None}").is_correct
    turns = questions["validation_Math_15"]
    assert turns.gold == ("24/7", "3.429")
    assert [benchmark.grade(turns, f"\\boxed{{{text}}}").is_correct for text in ("24/7", "3.43", "3.4")] == [1, 1, 0]
    assert benchmark.grade(questions["validation_Math_16"], "\\boxed{I}").is_correct
    assert benchmark.grade(questions["validation_Basic_Medical_Science_10"], "\\boxed{C}").is_correct
    assert first.metadata["l2-category"] == "Art and Design"
    assert {q.metadata["category"] for q in questions.values()} == set(MMMU_SUBJECTS)
    assert len({q.metadata["l2-category"] for q in questions.values()}) == 6
    assert benchmark.excluded == ({"of split dev": 1} if layout == "tables" else {})


@pytest.mark.parametrize("layout", ["tables", "hub"])
def test_mathvista(read, layout):
    benchmark, questions = read("MathVista", layout)
    assert [q.gold[0] for q in questions.values()] == ["1.2", "1000", "B", "[1999, 2001]", "A"]
    assert [q.answer_type for q in questions.values()] == ["float", "integer", "letter", "list", "letter"]
    assert questions["1"].precision == 1
    assert questions["1"].metadata["source"] == "PMC-VQA's"
    assert questions["3"].metadata["skills"] == ["statistical", "arithmetic"]
    assert questions["2"].metadata["unit"] == "g"
    # The second row shows the picture of the row with index 1.
    assert [shade(q.images[0]) for q in questions.values()] == [20, 20, 22, 23, 24]
    assert benchmark.grade(questions["5"], "\\boxed{None}").is_correct


@pytest.mark.parametrize("layout", ["tables", "hub"])
def test_mathvision_splits(read, layout):
    _, questions = read("MathVision", layout)
    assert list(questions) == ["4", "7", "8"]
    assert questions["4"].question.startswith("Which kite has the longest string?\n<image>")
    assert questions["7"].gold == ("007",)
    assert questions["8"].options == dict(zip("ABCDE", ["3.0 cm", "6 cm", "NA", "None", "$\\pi$"], strict=True))
    benchmark, mini = read("MathVision", layout, split="testmini")
    assert (benchmark.split, list(mini)) == ("testmini", ["7", "8"])
    assert benchmark.mismatches == ["2 scored questions, the release has 304"]


@pytest.mark.parametrize("layout", ["tables", "hub"])
def test_mathverse(read, layout):
    benchmark, questions = read("MathVerse-VO", layout)
    assert list(questions) == ["5", "10"]
    assert benchmark.excluded == {"of version Text Dominant": 1}
    assert questions["5"].question == (
        "According to the question shown in the image, please provide the correct option letter, e.g., A, B, C, D."
    )
    assert questions["5"].options["D"] == "140°"
    assert questions["10"].metadata["subfield"] == "Euler's line"
    assert [q.metadata["question_type"] for q in questions.values()] == ["multi-choice", "free-form"]
    assert benchmark.grade(questions["10"], "\\boxed{[-2, 2]}").is_correct


@pytest.mark.parametrize("layout", ["tables", "hub"])
def test_dynamath(read, layout):
    benchmark, questions = read("DynaMath", layout)
    assert len(questions) == 30
    assert questions["1-3"].gold == ("2.0944",)
    assert questions["3-9"].metadata == {"subject": "chart", "level": "undergraduate", "qid": "3", "varid": 9}
    assert benchmark.complete_units(list(questions.values())).all()


@pytest.mark.parametrize("layout", ["tables", "hub"])
def test_wemath(read, layout):
    benchmark, questions = read("WeMath", layout)
    assert questions["1-2steps_2"].options == {"A": "None", "B": "NA", "C": "36 cm³", "D": "No correct answer"}
    assert questions["1-2steps_multi"].options == {"A": "1.5", "B": "3.0", "C": "007"}
    assert benchmark.grade(questions["1-2steps_multi"], "\\boxed{007}").is_correct
    assert questions["1-2steps_1"].question == "What is the area?\nA. 12\nB. 24\nC. 36\nD. No correct answer"


@pytest.mark.parametrize("layout", ["tables", "hub"])
def test_logicvista(read, layout):
    benchmark, questions = read("LogicVista", layout)
    assert list(questions) == ["v1_1", "v1_2", "v1_20"]
    assert benchmark.excluded == {"without an answer": 1}
    assert [q.gold for q in questions.values()] == [("C",), ("B, D",), ("3",)]
    assert questions["v1_2"].metadata["skill"] == ["inductive", "spatial"]


# ---- where datasets lie


@pytest.mark.parametrize("place", ["We-Math", "We-Math/We-Math", "We-Math__We-Math", "We-Math___We-Math", "WeMath"])
def test_names_of_folders(tmp_path, place):
    HUBS["WeMath"](tmp_path / "made")
    shutil.copytree(tmp_path / "made" / "We-Math", tmp_path / "held" / place)
    assert len(BENCHMARKS["WeMath"]().read(tmp_path / "held")) == 3


def test_the_cache_of_the_hub(tmp_path):
    HUBS["WeMath"](tmp_path)
    cache = tmp_path / "hub" / "datasets--We-Math--We-Math"
    for revision in ("0old", "1new"):
        shutil.copytree(tmp_path / "We-Math", cache / "snapshots" / revision)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("1new")
    shutil.rmtree(cache / "snapshots" / "0old" / "data")
    (cache / "snapshots" / "0old" / "bad.jsonl").write_text("{}")
    assert len(BENCHMARKS["WeMath"]().read(tmp_path / "hub")) == 3


def test_saved_to_disk_by_datasets(tmp_path):
    HUBS["MathVision"](tmp_path)
    files = {split: str(tmp_path / f"MathLLMs/MathVision/data/{split}-*.parquet") for split in ("test", "testmini")}
    both = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    both.save_to_disk(tmp_path / "both" / "MathVision")
    assert len(BENCHMARKS["MathVision"]().read(tmp_path / "both")) == 3
    assert len(BENCHMARKS["MathVision"](split="testmini").read(tmp_path / "both")) == 2
    both["test"].save_to_disk(tmp_path / "one" / "MathVision")
    questions = BENCHMARKS["MathVision"]().read(tmp_path / "one")
    assert [shade(question.images[0]) for question in questions] == [30, 31, 32]


def test_the_parquet_branch_of_the_hub(tmp_path):
    HUBS["MMMU"](tmp_path)
    for file in sorted((tmp_path / "MMMU").rglob("*.parquet")):
        split = file.stem.split("-")[0]
        (file.parent / split).mkdir()
        file.rename(file.parent / split / "0000.parquet")
    assert len(BENCHMARKS["MMMU"]().read(tmp_path)) == 32


def test_json_with_picture_files(tmp_path):
    """LogicVista's own repository: an object of objects, pictures beside it."""
    HUBS["LogicVista"](tmp_path / "hub")
    expected = BENCHMARKS["LogicVista"]().read(tmp_path / "hub")
    folder = tmp_path / "own" / "LogicVista"
    (folder / "images").mkdir(parents=True)
    for question in expected:
        question.images[0].save(folder / "images" / f"{question.question_id}.png")
    rows = {
        name: {"question": question, "answer": answer, "skill": skill, "imagesource": f"images/{name}.png"}
        for name, question, answer, skill in LOGICVISTA_ROWS[:3]
    }
    (folder / "data").mkdir()
    (folder / "data" / "test.json").write_text(json.dumps(rows))
    found = BENCHMARKS["LogicVista"]().read(tmp_path / "own")
    assert [(q.question_id, q.gold) for q in found] == [(q.question_id, q.gold) for q in expected]
    assert [shade(q.images[0]) for q in found] == [70, 71, 72]
    rows["v1_2"]["imagesource"] = "../LogicVista/images/v1_2.png"
    (folder / "data" / "test.json").write_text(json.dumps(rows))
    with pytest.raises(
        ImageError, match=r"test\.json: row 1: the picture '\.\./LogicVista/images/v1_2\.png' is neither"
    ):
        BENCHMARKS["LogicVista"](on_bad_row="error").read(tmp_path / "own")
    rows["v1_2"]["imagesource"] = "images/v1_2.png"
    (folder / "data" / "test.json").write_text(json.dumps(rows))
    (folder / "images" / "v1_2.png").unlink()
    with pytest.raises(ImageError, match=r"test\.json: row 1: the picture 'images/v1_2\.png' is neither in"):
        BENCHMARKS["LogicVista"](on_bad_row="error").read(tmp_path / "own")


def test_pictures_in_an_archive_of_a_cloned_repository(tmp_path):
    """The pictures of a repository are a download of their own; they need not be unpacked."""
    rows = [
        {"id": str(n), "question": "q", "options": [], "answer": "7", "image": f"images/{n}.png"}
        | {"level": 1, "subject": "algebra"}
        for n in (1, 2, 3)
    ]
    data = tmp_path / "MATH-V" / "data"
    data.mkdir(parents=True)
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pictures = {}
    for n in (1, 2, 3):
        picture = io.BytesIO()
        Image.new("L", (8, 8), 70 + n).save(picture, "PNG")
        pictures[f"{n}.png"] = picture.getvalue()
    for names in (["images/1.png", "images/2.png", "images/3.png"], ["1.png", "2.png", "3.png"]):
        with zipfile.ZipFile(tmp_path / "MATH-V" / "images.zip", "w") as archive:
            for name in names:
                archive.writestr(name, pictures[name.removeprefix("images/")])
        questions = BENCHMARKS["MathVision"]().read(tmp_path, images="needed")
        assert [shade(question.images[0]) for question in questions] == [71, 72, 73]
    with zipfile.ZipFile(tmp_path / "MATH-V" / "images.zip", "w") as archive:
        archive.writestr("images/1.png", pictures["1.png"])
        archive.writestr("images/2.png", pictures["2.png"][:40])
        archive.writestr("../3.png", pictures["3.png"])
    with pytest.raises(ValueError, match=r"the member '\.\./3\.png' lies outside of the archive's folder"):
        BENCHMARKS["MathVision"](on_bad_row="error").read(tmp_path, images="needed")
    # Texts can be graded without any picture.
    (tmp_path / "MATH-V" / "images.zip").write_text("version https://git-lfs.github.com/spec/v1")
    assert len(BENCHMARKS["MathVision"]().read(tmp_path)) == 3


def test_pictures_that_fail_when_decoded_are_left_out(tmp_path, caplog):
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(noise, "JPEG")
    whole = base64.b64encode(noise.getvalue()).decode()
    cut = base64.b64encode(noise.getvalue()[:-500]).decode()
    columns = {"question": "q", "choices": "[]", "answer": "2", "category": "c", "level": "1"}
    rows = [{"index": str(n), "image": picture, **columns} for n, picture in enumerate([whole, cut, whole])]
    write_table(tmp_path / "MathVision.tsv", rows)
    benchmark = BENCHMARKS["MathVision"]()
    assert [question.question_id for question in benchmark.read(tmp_path)] == ["0", "2"]
    assert benchmark.excluded == {"unusable row": 1}
    assert "MathVision.tsv:3 (index 1): column 'image': a picture of" in caplog.text
    with pytest.raises(ImageError, match=r"MathVision\.tsv:3 \(index 1\): column 'image': a picture of .* truncated"):
        BENCHMARKS["MathVision"](on_bad_row="error").read(tmp_path)
    # Where texts are graded, pictures are not looked at.
    assert len(BENCHMARKS["MathVision"]().read(tmp_path, images="optional")) == 3


# ---- what is wrong


def test_a_missing_configuration(tmp_path, caplog):
    HUBS["MMMU"](tmp_path)
    shutil.rmtree(tmp_path / "MMMU" / "Music")
    with pytest.raises(
        FileNotFoundError, match=r"MMMU: no files of Music/validation; looked for names like validation-"
    ):
        BENCHMARKS["MMMU"]().read(tmp_path)
    assert len(BENCHMARKS["MMMU"](allow_incomplete=True).read(tmp_path)) == 31
    assert "no files of Music/validation" in caplog.text


def test_a_missing_shard(tmp_path):
    HUBS["MathVision"](tmp_path)
    (tmp_path / "MathLLMs/MathVision/data/test-00000-of-00002-0a1b2c.parquet").unlink()
    with pytest.raises(ValueError, match=r"shards of test are not complete and single; there are test-00001-of-00002"):
        BENCHMARKS["MathVision"]().read(tmp_path)


def test_pointers_broken_files_and_other_columns(tmp_path):
    folder = tmp_path / "We-Math"
    folder.mkdir()
    file = folder / "testmini.parquet"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    with pytest.raises(ValueError, match=r"testmini\.parquet: only the pointer of a large file; fetch it"):
        BENCHMARKS["WeMath"]().read(tmp_path)
    file.write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(ValueError, match=r"testmini\.parquet: cannot be read after row 0 of testmini"):
        BENCHMARKS["WeMath"]().read(tmp_path)
    save([{"ID": "1", "question": "q", "answer": "A"}], file)
    with pytest.raises(ValueError, match=r"testmini\.parquet: columns \['key', 'option'\] are missing; the file has"):
        BENCHMARKS["WeMath"]().read(tmp_path)
    file.unlink()
    (folder / "testmini.csv").write_text("ID,key\n1\n")
    with pytest.raises(ValueError, match=r"testmini\.csv:2: the number of cells is not that of the header"):
        BENCHMARKS["WeMath"]().read(tmp_path)


def test_two_copies_of_a_split(tmp_path):
    HUBS["WeMath"](tmp_path)
    folder = tmp_path / "We-Math"
    shutil.copytree(folder / "data", folder / "again")
    with pytest.raises(ValueError, match=r"both .*again and .*data hold testmini; keep one"):
        find_files(folder, HubPart("testmini"))


@pytest.mark.parametrize(
    ("option", "answer", "options"),
    [
        # Shapes of released rows: an inner letter, letters with a gap, spaces alone between options.
        (
            "A. Shape A is moved to ;C.; B. Shape A is turned around ;O.;C. No.; F. No correct answer",
            "A",
            {
                "A": "Shape A is moved to ;C.",
                "B": "Shape A is turned around ;O.",
                "C": "No.",
                "F": "No correct answer",
            },
        ),
        ("A. 45° B. 60° ;C. 120°; D. None", "C", {"A": "45°", "B": "60°", "C": "120°", "D": "None"}),
        (
            "A. Equal; B. twice triangle BE;G.; C. half of triangle BE;G.; D. unknown",
            "D",
            {"A": "Equal", "B": "twice triangle BE;G.", "C": "half of triangle BE;G.", "D": "unknown"},
        ),
        ("A. 12", "A", {}),
        ("12; 24", "B", {}),
        ("A. 1; B. 2; D. 4", "C", {}),  # the right one is not among them, so none can be told
        ("", "B", {}),
    ],
)
def test_options_of_wemath_that_do_not_split_leave_the_letter(tmp_path, caplog, option, answer, options):
    parts = ("2steps_1", "2steps_2", "2steps_multi")
    rows = [
        {"ID": "1", "key": key, "question": "q", "option": option, "answer": answer, "image_path": None}
        for key in parts
    ]
    save(rows, tmp_path / "We-Math" / "testmini.parquet", ["image_path"])
    benchmark = BENCHMARKS["WeMath"]()
    questions = benchmark.read(tmp_path)
    assert [dict(question.options) for question in questions] == [options] * 3
    assert questions[0].question == (f"q\n{option}" if option else "q")  # as written
    for letter in "ABCDEFG":
        assert benchmark.grade(questions[0], f"\\boxed{{{letter}}}").is_correct == (letter == answer)
    assert "3 rows: the options do not split plainly" in caplog.text
    assert "(index 1-2steps_1)" in caplog.text


def test_bad_rows_may_be_skipped_and_are_counted(tmp_path, caplog):
    TABLES["MathVista"](tmp_path)
    path = tmp_path / "MathVista_MINI.tsv"
    rows = [dict(row.values) for row in read_table(path)]
    rows[2]["answer_option"] = "F"
    write_table(path, rows)
    with pytest.raises(ValueError, match=r"\(index 3\): column 'answer' is 'F', but the options are A, B"):
        BENCHMARKS["MathVista"](on_bad_row="error").read(tmp_path)
    benchmark = BENCHMARKS["MathVista"]()  # the default
    assert [question.question_id for question in benchmark.read(tmp_path)] == ["1", "2", "4", "5"]
    assert benchmark.excluded == {"unusable row": 1}
    assert "MathVista: 1 rows cannot be used and are left out" in caplog.text
    assert "(index 3): column 'answer' is 'F'" in caplog.text


def test_a_bad_row_takes_its_unit_with_it_and_no_other(tmp_path, caplog):
    TABLES["DynaMath"](tmp_path)
    path = tmp_path / "DynaMath.tsv"
    rows = [dict(row.values) for row in read_table(path)]
    rows[3]["answer"] = "many"
    write_table(path, rows)
    seeds = {row["qid"] for row in rows} - {rows[3]["qid"]}
    benchmark = BENCHMARKS["DynaMath"]()
    questions = benchmark.read(tmp_path)
    assert {question.metadata["qid"] for question in questions} == seeds
    assert benchmark.excluded == {"unusable row": 1, "incomplete unit": 9}
    assert f"seeds (qid {rows[3]['qid']})" in caplog.text


@pytest.mark.parametrize(
    "broken",
    [
        '{"id": "9", "question": ',
        '["no object"]',
        '{"id": "9", "question": "q"}',
        '{"id": "9", "question": "\\ud800", "options": [], "answer": "7", "level": 1, "subject": "algebra"}',
    ],
)
def test_a_line_that_is_no_row_takes_no_other_with_it(tmp_path, caplog, broken):
    row = {"id": "1", "question": "q", "options": [], "answer": "7", "level": 1, "subject": "algebra"}
    path = tmp_path / "MathVision" / "test.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join([json.dumps(row), broken, json.dumps(row | {"id": "2"})]) + "\n")
    benchmark = BENCHMARKS["MathVision"]()
    assert [question.question_id for question in benchmark.read(tmp_path)] == ["1", "2"]
    assert benchmark.excluded == {"unusable row": 1}
    assert "1 rows cannot be used" in caplog.text
    with pytest.raises(ValueError, match=r"test\.jsonl"):
        BENCHMARKS["MathVision"](on_bad_row="error").read(tmp_path)


def test_incomplete_groups(tmp_path, caplog):
    for name, unit in (("WeMath", "groups (ID 1)"), ("DynaMath", "seeds (qid 2)")):
        TABLES[name](tmp_path)
        path = tmp_path / f"{name}.tsv"
        rows = [dict(row.values) for row in read_table(path)]
        write_table(path, [row for row in rows if row["index"] not in ("2-7", "1-2steps_1")])
        with pytest.raises(ValueError, match=rf"{name}\.tsv: 1 {unit.split()[0]}") as caught:
            BENCHMARKS[name]().read(tmp_path)
        assert unit in str(caught.value)
    benchmark = make_benchmark("DynaMath", options={"DynaMath": BenchmarkOptions(allow_incomplete=True)})
    assert len(benchmark.read(tmp_path)) == 20
    assert benchmark.excluded == {"incomplete unit": 9}
    assert "left out: 1 seeds (qid 2)" in caplog.text
    with pytest.raises(ValueError, match="no row is scored in split 'testmini' of WeMath: 2 incomplete unit"):
        BENCHMARKS["WeMath"](allow_incomplete=True).read(tmp_path)


def test_a_table_comes_before_a_dataset(tmp_path):
    HUBS["WeMath"](tmp_path)
    write_table(
        tmp_path / "WeMath.tsv",
        [
            {
                "index": str(n),
                "image": cell(99),
                "question": "t",
                "answer": "A",
                "ID": "1",
                "key": key,
                "A": "1",
                "B": "2",
            }
            for n, key in enumerate(["2steps_1", "2steps_2", "2steps_multi"])
        ],
    )
    assert [q.question for q in BENCHMARKS["WeMath"]().read(tmp_path)] == ["t\nA. 1\nB. 2"] * 3
    with pytest.raises(FileNotFoundError, match=r"looked for the table other\.tsv"):
        BENCHMARKS["WeMath"](table="other.tsv").read(tmp_path)
