import csv
import io
import zipfile

import openpyxl
import pandas
import pytest
import xlsxwriter
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property_examples import examples

from datamodules.rollouts.prediction_tables import MAX_CELL_LENGTH, read_predictions, write_predictions

ROWS = [
    {"index": "1", "question": "How many?", "answer": "14", "level": "1.5", "prediction": "Step 1.\n\nSo \\boxed{14}."},
    {"index": "2", "question": 'Say "a\tb"', "answer": "None", "level": "2", "prediction": "=1+1"},
    {"index": "10", "question": "x", "answer": "", "level": "", "prediction": "  14 "},
]


def as_vlmevalkit_writes(path, rows):
    """XLSX by pandas and xlsxwriter, formulas off; TSV by pandas with everything quoted."""
    frame = pandas.DataFrame(rows)
    frame["index"] = frame["index"].astype(int)
    if path.suffix == ".tsv":
        frame.to_csv(path, sep="\t", index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)
    else:
        options = {"options": {"strings_to_formulas": False}}
        with pandas.ExcelWriter(path, engine="xlsxwriter", engine_kwargs=options) as writer:
            frame.to_excel(writer, index=False)
    return path


def cells(rows):
    return [dict(row.values) for row in rows]


@pytest.mark.parametrize("kind", [".tsv", ".xlsx"])
def test_files_of_vlmevalkit(tmp_path, kind):
    path = as_vlmevalkit_writes(tmp_path / f"model_MathVision{kind}", ROWS)
    rows = read_predictions(path)
    assert cells(rows) == ROWS
    assert rows[1].where.startswith(f"{path}: sheet 'Sheet1', row 3" if kind == ".xlsx" else f"{path}:")
    assert rows[1].where.endswith("(index 2)")


@pytest.mark.parametrize("kind", [".tsv", ".xlsx"])
def test_what_is_written_comes_back(tmp_path, kind):
    write_predictions(tmp_path / f"p{kind}", ROWS)
    assert cells(read_predictions(tmp_path / f"p{kind}")) == ROWS


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], include_characters="\n\t"), min_size=1)


@settings(deadline=None, max_examples=examples(30))
@given(st.lists(TEXTS, min_size=1, max_size=4))
@example(["=HYPERLINK(1)", "+1", "-1", "@x"])
@example(["#N/A", "#REF!", "TRUE", "007"])
@example([" a", "b\n\n", "\n", "1e5", "2024-01-01"])
@example(["\U0001f600", "−1", "<t>&amp;", "a\ufeffb"])
def test_any_text_survives_both_kinds(tmp_path_factory, texts):
    if any("\ufffe" in text or "\uffff" in text for text in texts):
        return
    rows = [{"index": str(number), "prediction": text} for number, text in enumerate(texts)]
    folder = tmp_path_factory.mktemp("texts")
    for kind in (".tsv", ".xlsx"):
        write_predictions(folder / f"p{kind}", rows)
        assert cells(read_predictions(folder / f"p{kind}")) == rows


def test_a_spreadsheet_holds_text_and_no_formulas(tmp_path):
    path = tmp_path / "p.xlsx"
    rows = [
        {"index": "1", "question": "=A1", "prediction": "=1+1"},
        {"index": "2", "question": "", "prediction": "#N/A"},
    ]
    write_predictions(path, rows)
    sheet = openpyxl.load_workbook(path).worksheets[0]
    assert [(cell.value, cell.data_type) for cell in sheet[2]] == [(1, "n"), ("=A1", "s"), ("=1+1", "s")]
    assert (sheet["C3"].value, sheet["C3"].data_type) == ("#N/A", "s")
    assert b"<f>" not in zipfile.ZipFile(path).read("xl/worksheets/sheet1.xml")
    assert pandas.read_excel(path, keep_default_na=False)["prediction"].tolist() == ["=1+1", "#N/A"]


def test_pandas_finds_the_types_that_vlmevalkit_writes(tmp_path):
    write_predictions(tmp_path / "ours.xlsx", ROWS)
    as_vlmevalkit_writes(tmp_path / "theirs.xlsx", [{**row, "level": float(row["level"] or "nan")} for row in ROWS])
    ours, theirs = (pandas.read_excel(tmp_path / f"{name}.xlsx") for name in ("ours", "theirs"))
    assert ours["index"].tolist() == theirs["index"].tolist() == [1, 2, 10]
    assert ours["level"].dtype == theirs["level"].dtype == float
    assert all(isinstance(text, str) for text in ours["prediction"])


def test_numbers_that_would_change_stay_text(tmp_path):
    rows = [
        {"index": "1", "a": "007", "b": "1.50", "c": "12345678901234567890", "d": "1e5", "prediction": "3"},
        {"index": "2", "a": "1", "b": "2", "c": "1", "d": "1", "prediction": "4"},
    ]
    write_predictions(tmp_path / "p.xlsx", rows)
    assert cells(read_predictions(tmp_path / "p.xlsx")) == rows
    sheet = openpyxl.load_workbook(tmp_path / "p.xlsx").worksheets[0]
    assert [cell.data_type for cell in sheet[3]] == ["n", "s", "s", "s", "s", "s"]


@pytest.mark.parametrize("text", ["x" * MAX_CELL_LENGTH, "\U0001f600" * (MAX_CELL_LENGTH // 2)])
def test_the_longest_text_fits(tmp_path, text):
    write_predictions(tmp_path / "p.xlsx", [{"index": "1", "prediction": text}])
    assert read_predictions(tmp_path / "p.xlsx")[0].get("prediction") == text


def test_longer_texts_are_refused_by_name_and_fit_into_tsv(tmp_path):
    long = ["x" * (MAX_CELL_LENGTH + 1), "\U0001f600" * (MAX_CELL_LENGTH // 2 + 1)]
    rows = [{"index": str(number), "prediction": text} for number, text in enumerate(long * 6)]
    with pytest.raises(ValueError, match=r"12 texts are longer than the 32767 characters of a cell") as error:
        write_predictions(tmp_path / "p.xlsx", rows)
    assert "index '0', column 'prediction' (32768 characters)" in str(error.value)
    assert "index '1', column 'prediction' (32768 characters)" in str(error.value)
    assert "and 2 more" in str(error.value)
    assert "Write a .tsv file instead" in str(error.value)
    assert not (tmp_path / "p.xlsx").exists()
    write_predictions(tmp_path / "p.tsv", rows)
    assert cells(read_predictions(tmp_path / "p.tsv")) == rows


@pytest.mark.parametrize("text", ["\x0crac{1}{2}", "a\rb", "a\x00b", "_x0041_"])
def test_characters_that_xlsx_loses_are_refused_by_name(tmp_path, text):
    with pytest.raises(ValueError, match=r"characters that XLSX does not keep: index '7', column 'prediction'"):
        write_predictions(tmp_path / "p.xlsx", [{"index": "7", "prediction": text}])


def test_escapes_of_other_writers_are_undone(tmp_path):
    path = as_vlmevalkit_writes(tmp_path / "p.xlsx", [{"index": "1", "prediction": "\x0crac _x0041_"}])
    assert read_predictions(path)[0].get("prediction") == "\x0crac _x0041_"


def test_a_prediction_that_became_a_formula_is_read_as_its_text(tmp_path):
    book = xlsxwriter.Workbook(str(tmp_path / "p.xlsx"))  # as older versions of VLMEvalKit wrote it
    sheet = book.add_worksheet()
    sheet.write_row(0, 0, ["index", "prediction"])
    sheet.write_number(1, 0, 7.0)
    sheet.write_formula(1, 1, "=2*x", value=0)
    book.close()
    assert cells(read_predictions(tmp_path / "p.xlsx")) == [{"index": "7", "prediction": "=2*x"}]


def workbook(path, *rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["index", "answer"], [1, "A"]], r"row 1: columns \['prediction'\] are missing; the table has"),
        ([["index", "prediction", "prediction"], [1, "A", "B"]], r"row 1: columns \['prediction'\] are named more"),
        ([["index", "prediction"], [1, "a"], [2, "b"], [1, "c"]], r"row 4: column 'index' repeats '1' of row 2"),
        ([["index", "prediction"], [None, "a"]], r"row 2: column 'index' is empty"),
        ([["index", "prediction"], [1, "a", "b"]], r"row 2: 3 cells, but the header names 2 columns"),
        ([["index", "prediction"], [1, "#N/A"]], r"row 2, cell 2: holds the spreadsheet error #N/A"),
        ([["index", "prediction"]], r"sheet 'Sheet' has no rows"),
    ],
)
def test_broken_sheets_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_predictions(workbook(tmp_path / "p.xlsx", *rows), on_bad_row="error")


@pytest.mark.parametrize("kind", ["tsv", "xlsx"])
def test_rows_that_cannot_be_used_take_no_other_with_them(tmp_path, caplog, kind):
    rows = [["index", "prediction"], ["1", "a"], ["", "b"], ["1", "c"], ["2", "d", "e"], ["3", "f"]]
    path = tmp_path / f"p.{kind}"
    if kind == "xlsx":
        workbook(path, *rows)
    else:
        path.write_text("".join("\t".join(row) + "\n" for row in rows))
    assert cells(read_predictions(path)) == [{"index": "1", "prediction": "a"}, {"index": "3", "prediction": "f"}]
    assert f"{path}: 3 rows cannot be used and are left out: " in caplog.text
    assert all(f"row {row}: " in caplog.text or f"p.tsv:{row}: " in caplog.text for row in (3, 4, 5))
    with pytest.raises(ValueError, match="column 'index' is empty"):
        read_predictions(path, on_bad_row="error")


def test_dates_are_refused(tmp_path):
    import datetime

    path = workbook(tmp_path / "p.xlsx", ["index", "prediction"], [1, datetime.date(2024, 3, 4)])
    with pytest.raises(ValueError, match="row 2, cell 2: holds the date 2024-03-04"):
        read_predictions(path)


def test_other_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"p.xlsx: no such prediction file"):
        read_predictions(tmp_path / "p.xlsx")
    (tmp_path / "p.xlsx").write_text("index,prediction")
    with pytest.raises(ValueError, match=r"p.xlsx: cannot be opened as an XLSX file"):
        read_predictions(tmp_path / "p.xlsx")
    with zipfile.ZipFile(tmp_path / "p.xlsx", "w") as archive:
        archive.writestr("a.txt", "no workbook")
    with pytest.raises(ValueError, match=r"p.xlsx: cannot be opened as an XLSX file"):
        read_predictions(tmp_path / "p.xlsx")
    (tmp_path / "p.pkl").write_bytes(b"")
    for act in (read_predictions, lambda path: write_predictions(path, ROWS)):
        with pytest.raises(ValueError, match=r"ends in .tsv or .xlsx, not in '.pkl'"):
            act(tmp_path / "p.pkl")
    write_predictions(tmp_path / "large.xlsx", ROWS)
    monkeypatch.setattr("datamodules.rollouts.prediction_tables.MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ValueError, match=r"large.xlsx: unpacks to \d+ bytes; at most 1000 are allowed"):
        read_predictions(tmp_path / "large.xlsx")


def test_a_table_without_a_prediction_is_named(tmp_path):
    (tmp_path / "p.tsv").write_text(io.StringIO("index\tanswer\n1\tA\n").read())
    with pytest.raises(ValueError, match=r"p.tsv:1: columns \['prediction'\] are missing"):
        read_predictions(tmp_path / "p.tsv")
