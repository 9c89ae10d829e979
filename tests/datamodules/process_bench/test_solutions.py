import copy
import json

import pytest
import torch
from released_process_bench import released_rows, write_released

from datamodules.batching.lengths import TokenCounter
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.process_bench.solutions import (
    ProcessBenchCollator,
    VisualProcessBenchDataset,
    read_visual_process_bench,
)
from datamodules.storage.images import ImageError


def row(**fields):
    values = {
        "image": ["pictures/a.png"],
        "question": "How many?",
        "answer": "2",
        "response": {"steps": ["a", "b", "c"], "process_correctness": [1, 0, -1]},
        "policy_model": "tiny",
        "data_source": "MathVision",
    }
    return {name: value for name, value in {**values, **fields}.items() if value is not None}


@pytest.fixture
def folder(tmp_path, pictures, write_lines):
    write_lines(tmp_path / "test.jsonl", [row(), row(image=[], response={"steps": ["a"], "process_correctness": [-1]})])
    return tmp_path


def test_reading(folder):
    first, second = read_visual_process_bench(folder)
    assert first.sample_id == f"{folder}/test.jsonl:1"
    assert first.images == (f"{folder}/pictures/a.png",)
    assert first.steps == ("a", "b", "c")
    assert first.correctness == (1, 0, -1)
    assert (first.data_source, first.policy_model) == ("MathVision", "tiny")
    assert second.images == ()


def test_images_may_lie_in_the_folder_images(folder):
    (folder / "pictures").rename(folder / "images")
    (folder / "test.jsonl").write_text((folder / "test.jsonl").read_text().replace("pictures/", ""))
    assert read_visual_process_bench(folder)[0].images == (f"{folder}/images/a.png",)


def test_a_batch(folder, tiny_processor):
    encoder = ConversationEncoder(tiny_processor, "", ("+", "-"))
    dataset = VisualProcessBenchDataset(folder)
    dataset.leave_out_unreadable(TokenCounter(encoder, 12))
    assert len(dataset) == 2
    batch = ProcessBenchCollator(encoder)([dataset[index] for index in range(len(dataset))])
    assert batch.correctness.tolist() == [[1, 0, -1], [-1, -2, -2]]
    assert (batch.step_positions >= 0).tolist() == [[True, True, True], [True, False, False]]
    assert batch.mc.isnan().all()
    assert (batch.num_mc_total == -1).all()
    assert batch.sources == ["MathVision", "MathVision"]
    assert batch.sample_ids == [f"{folder}/test.jsonl:1", f"{folder}/test.jsonl:2"]


def test_many_steps_are_not_merged(tmp_path, write_lines, tiny_processor):
    many = {"steps": [str(number) for number in range(30)], "process_correctness": [1] * 30}
    write_lines(tmp_path / "test.jsonl", [row(image=None, response=many)])
    encoder = ConversationEncoder(tiny_processor, "", ("+", "-"))
    assert ProcessBenchCollator(encoder)([VisualProcessBenchDataset(tmp_path)[0]]).step_positions.shape == (1, 30)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return write_released(tmp_path_factory.mktemp("released"), released_rows())


def test_the_released_set_is_read_out_of_its_archive(released, caplog):
    solutions = read_visual_process_bench(released, "error")
    assert not caplog.records
    assert len(solutions) == 2866
    assert sum(len(solution.steps) for solution in solutions) == 26950
    labels = [label for solution in solutions for label in solution.correctness]
    assert [labels.count(label) for label in (1, -1, 0)] == [16585, 7691, 2674]
    assert {len(solution.images) for solution in solutions} == {1, 2}
    assert not (released / "images").exists()


def test_a_full_set_with_other_labels_is_refused(released, tmp_path):
    rows = copy.deepcopy(released_rows())
    for row in rows:
        row["image"] = []
        row["question"] = row["question"].replace("<image>", "x")
    labels = next(row for row in rows if row["data_source"] == "DynaMath")["response"]["process_correctness"]
    labels[0] = -1 if labels[0] == 1 else 1
    write_released(tmp_path, rows)
    with pytest.raises(ValueError, match=r"test.jsonl: this is not the released .*: DynaMath has \d+ correct steps"):
        read_visual_process_bench(tmp_path)
    assert len(read_visual_process_bench(tmp_path, "warn")) == 2866


def test_archived_and_unpacked_pictures_give_the_same_batch(tmp_path, tiny_processor, caplog):
    rows = [row for row in released_rows() if row["data_source"] == "MMMU"][:12]
    collator = ProcessBenchCollator(ConversationEncoder(tiny_processor, "", ("+", "-")))
    batches = []
    for zipped in (True, False):
        dataset = VisualProcessBenchDataset(write_released(tmp_path / str(zipped), rows, zipped))
        batches.append(collator([dataset[0], dataset[1], dataset[11]]))
    assert torch.equal(batches[0].inputs["pixel_values"], batches[1].inputs["pixel_values"])
    assert torch.equal(batches[0].correctness, batches[1].correctness)
    assert "12 samples with" in caplog.text


def test_pictures_that_the_archive_lacks_are_named(tmp_path, caplog):
    rows = released_rows()[:3]
    write_released(tmp_path, rows)
    rows[1]["image"] = ["images/MMMU/other.png"]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ImageError, match=r"test.jsonl:2: field 'image': .*other.png"):
        read_visual_process_bench(tmp_path, on_bad_row="error")
    solutions = read_visual_process_bench(tmp_path)
    assert [solution.sample_id.rpartition(":")[2] for solution in solutions] == ["1", "3"]
    assert "1 rows cannot be used and are left out" in caplog.text
    assert "test.jsonl:2: field 'image'" in caplog.text


def response(steps, correctness):
    return {"response": {"steps": steps, "process_correctness": correctness}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "field 'question' is missing"),
        ({"question": "<image> <image>"}, "field 'question' has 2 <image> placeholders for 1 images"),
        ({"response": None}, "field 'response' is missing"),
        ({"response": "a"}, "field 'response' must be an object with steps and process_correctness, got 'a'"),
        (response([], []), "field 'response.steps' must be a list that is not empty"),
        (response(["a", " "], [1, 1]), r"field 'response.steps\[1\]' must be a string that is not blank"),
        (response(["a", 2], [1, 1]), r"field 'response.steps\[1\]' must be a string that is not blank, got 2"),
        (response(["a", "\ud800"], [1, 1]), r"field 'response.steps\[1\]' must be valid Unicode"),
        (response(["a", "b"], [1]), "field 'response.process_correctness' has 1 values for 2 steps"),
        (response(["a", "b"], [1, 2]), r"field 'response.process_correctness\[1\]' must be 1, 0 or -1, got 2"),
        (response(["a", "b"], [1, True]), r"field 'response.process_correctness\[1\]' must be 1, 0 or -1, got True"),
        (response(["a", "b"], [1, float("nan")]), r"'response.process_correctness\[1\]' must be 1, 0 or -1, got nan"),
        ({"image": 7}, "field 'image' must be a path"),
        ({"data_source": None}, "field 'data_source' is missing"),
        ({"policy_model": 5}, "field 'policy_model' must be a string, got 5"),
    ],
)
def test_bad_rows_are_named(folder, write_lines, change, message):
    write_lines(folder / "test.jsonl", [row(), row(**{**{name: None for name in change}, **change})])
    with pytest.raises(ValueError, match=message) as error:
        read_visual_process_bench(folder, on_bad_row="error")
    assert str(error.value).startswith(f"{folder}/test.jsonl:2: ")


def test_bad_images(folder, write_lines):
    for name in ("missing.png", "text.png"):
        write_lines(folder / "test.jsonl", [row(image=[f"pictures/{name}"])])
        with pytest.raises(ImageError, match=f"test.jsonl:1: field 'image': .*{name}"):
            read_visual_process_bench(folder, on_bad_row="error")


def test_pictures_that_fail_when_decoded_are_left_out(folder, write_lines, caplog):
    write_lines(folder / "test.jsonl", [row(), row(image=["pictures/broken.png"]), row(image=["pictures/broken.png"])])
    assert [s.sample_id for s in read_visual_process_bench(folder)] == [f"{folder}/test.jsonl:1"]
    assert "2 rows cannot be used and are left out" in caplog.text
    for line in (2, 3):
        assert f"test.jsonl:{line}: field 'image': '{folder}/pictures/broken.png' cannot be opened" in caplog.text
    with pytest.raises(ImageError, match=r"test.jsonl:2: field 'image': .*broken.png"):
        read_visual_process_bench(folder, on_bad_row="error")


def test_bad_files(folder, write_lines, tiny_processor):
    write_lines(folder / "test.jsonl", [row(), '{"question": "cut'])
    with pytest.raises(ValueError, match=r"test.jsonl:2: not valid JSON"):
        read_visual_process_bench(folder, on_bad_row="error")
    write_lines(folder / "test.jsonl", [])
    with pytest.raises(ValueError, match=r"test.jsonl: holds no rows"):
        read_visual_process_bench(folder, on_bad_row="error")
    (folder / "test.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"give the folder that holds test.jsonl"):
        read_visual_process_bench(folder, on_bad_row="error")


def test_special_tokens_are_found_before_a_run(folder, write_lines, tiny_processor, caplog):
    write_lines(folder / "test.jsonl", [row(), row(**response(["a", "<|end|>"], [1, 1]))])
    encoder = ConversationEncoder(tiny_processor, "", ("+", "-"))
    counter = TokenCounter(encoder, 12)
    with pytest.raises(ValueError, match=r"test.jsonl:2: step 1: the text holds the special token"):
        VisualProcessBenchDataset(folder, on_bad_row="error").leave_out_unreadable(counter)
    dataset = VisualProcessBenchDataset(folder)
    dataset.leave_out_unreadable(counter)
    assert [solution.sample_id for solution in dataset.solutions] == [f"{folder}/test.jsonl:1"]
    assert "1 rows cannot be used and are left out: " in caplog.text
    assert "1 samples with 3 steps" in caplog.text  # what is left is compared with the release again
