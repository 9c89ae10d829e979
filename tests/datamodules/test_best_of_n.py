import json
from dataclasses import replace

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from released_benchmarks import dynamath_table
from transformers import AutoProcessor

from datamodules.batching.candidate_batch import CandidateCollator
from datamodules.batching.lengths import TokenCounter
from datamodules.benchmarks import BenchmarkOptions
from datamodules.benchmarks.gpqa import option_order
from datamodules.benchmarks.table import encode_image, read_table, write_table
from datamodules.best_of_n import read_best_of_n_datasets
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.reading_rules import ReadingRules
from datamodules.rollouts.records import Rollout, write_rollouts

RESPONSES = ["a\n\nb\n\n\\boxed{1/2}", "a\n\nc", "\\boxed{0.5}", ""]
ANSWERS = ["1/2", None, "0.5", "3"]


def rollout(question_id, sample_index, benchmark="MathVision"):
    return Rollout(
        benchmark=benchmark,
        question_id=question_id,
        sample_index=sample_index,
        response=RESPONSES[sample_index],
        extracted_answer=ANSWERS[sample_index],
        is_correct=sample_index in (0, 2),
        policy="tiny",
        temperature=0.7,
        top_p=1.0,
        max_new_tokens=64,
        seed=0,
    )


@pytest.fixture
def folder(tmp_path):
    rows = [
        {
            "index": str(index),
            "image": encode_image(Image.new("RGB", (20, 20), (index, 0, 0))),
            "question": f"How much is it in picture {index}?",
            "choices": "[]",
            "answer": "0.5",
            "category": "algebra",
            "level": "1",
        }
        for index in (10, 2, 3)
    ]
    write_table(tmp_path / "MathVision.tsv", rows)
    return tmp_path


@pytest.fixture
def rollouts(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    write_rollouts(path, [rollout(q, i) for i in (3, 1, 0, 2) for q in ("2", "10", "3")])
    return path


@pytest.fixture
def encoder(tiny_processor):
    return ConversationEncoder(tiny_processor, "Judge.", ("+", "-"))


def test_questions_with_their_candidates(folder, rollouts):
    datasets = read_best_of_n_datasets(folder, rollouts, None, 4, rules="file")
    assert list(datasets) == ["MathVision"]
    dataset = datasets["MathVision"]
    assert dataset.benchmark.name == "MathVision"
    assert [item.question.question_id for item in (dataset[0], dataset[1], dataset[2])] == ["10", "2", "3"]
    assert [entry.sample_index for entry in dataset[0].rollouts] == [0, 1, 2, 3]
    assert dataset[0].answer_classes == (0, -1, 0, 1)
    assert len(read_best_of_n_datasets(folder, rollouts, ["MathVision"], 2)["MathVision"][0].rollouts) == 2


def test_a_batch(folder, rollouts, encoder):
    dataset = read_best_of_n_datasets(folder, rollouts, None, 4, rules="file")["MathVision"]
    batch = CandidateCollator(encoder)([dataset[0], dataset[1]])
    group = batch.groups[0]
    assert (group.benchmark, group.question_id) == ("MathVision", "10")
    assert group.question == "How much is it in picture 10?"
    assert group.responses == RESPONSES
    assert group.is_correct == [True, False, True, False]
    assert group.answer_classes == [0, -1, 0, 1]
    assert [len(positions) for positions in group.encoded.step_positions] == [3, 2, 1, 1]
    assert group.encoded.prefix["pixel_values"].shape == (1, 3, 32, 32)


def test_prefix_and_suffix_together_are_the_conversation(folder, rollouts, encoder):
    """The shared start and the rest of each candidate, joined, equal the ids and positions of the batch encoder."""
    dataset = read_best_of_n_datasets(folder, rollouts, None, 4)["MathVision"]
    encoded = CandidateCollator(encoder)([dataset[0]]).groups[0].encoded
    steps = [["a", "b", "\\boxed{1/2}"], ["a", "c"], ["\\boxed{0.5}"], [""]]
    for index, candidate in enumerate(steps):
        question = dataset[0].question
        inputs, positions = encoder.encode([(list(question.images), question.question, candidate, "x")])
        prefix, suffix = encoded.prefix["input_ids"][0], encoded.suffixes[index]
        assert torch.cat([prefix, suffix]).tolist() == inputs["input_ids"][0].tolist()
        assert (encoded.step_positions[index] + len(prefix)).tolist() == positions[0].tolist()


def test_steps_are_merged_or_joined(folder, rollouts, encoder):
    dataset = read_best_of_n_datasets(folder, rollouts, None, 4)["MathVision"]
    for options, counts in (({"max_steps": 2}, [2, 2, 1, 1]), ({"response_as_one_step": True}, [1, 1, 1, 1])):
        encoded = CandidateCollator(encoder, **options)([dataset[0]]).groups[0].encoded
        assert [len(positions) for positions in encoded.step_positions] == counts


def test_lightning_can_move_a_batch(folder, rollouts, encoder):
    dataset = read_best_of_n_datasets(folder, rollouts, None, 4)["MathVision"]
    batch = CandidateCollator(encoder)([dataset[0]])
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.groups[0].encoded.prefix["input_ids"].device.type == "meta"
    assert moved.groups[0].encoded.suffixes[0].device.type == "meta"
    assert moved.groups[0].responses == RESPONSES


def test_questions_without_rollouts_are_an_error_or_left_out_aloud(folder, rollouts, caplog):
    write_rollouts(rollouts, [rollout("3", 0), rollout("10", 0)])
    with pytest.raises(
        ValueError, match=r"1 of 3 questions have no rollouts: '2'; .* set on_missing_rollouts to 'skip'"
    ):
        read_best_of_n_datasets(folder, rollouts, None, 1)
    dataset = read_best_of_n_datasets(folder, rollouts, None, 1, on_missing="skip")["MathVision"]
    assert [question.question_id for question in dataset.questions] == ["10", "3"]
    assert "MathVision: 1 of 3 questions have no rollouts: '2'; they are left out" in caplog.text


def test_stale_verdicts_are_reported_and_those_of_the_rules_are_used(folder, rollouts, caplog):
    rows = [rollout(q, i) for q in ("2", "10", "3") for i in range(2)]
    rows[3] = replace(rows[3], is_correct=True)  # "10", sample 1: no readable answer
    write_rollouts(rollouts, rows)
    dataset = read_best_of_n_datasets(folder, rollouts, None, 2)["MathVision"]
    assert [entry.is_correct for entry in dataset[0].rollouts] == [True, False]
    assert f"1 of 6 verdicts differ from those of the present rules: {rollouts}:4 (question '10'" in caplog.text
    assert "the present ones are used" in caplog.text
    dataset = read_best_of_n_datasets(folder, rollouts, None, 2, rules="file")["MathVision"]
    assert [entry.is_correct for entry in dataset[0].rollouts] == [True, True]
    assert "those of the file are used" in caplog.text


def test_rollouts_that_do_not_fit(folder, rollouts):
    with pytest.raises(ValueError, match=r"3 questions do not have the samples 0 to 4: '10' lacks 4; '2' lacks 4; '3'"):
        read_best_of_n_datasets(folder, rollouts, None, 5)
    with pytest.raises(ValueError, match=r"unknown benchmark 'Math' .*; known are "):
        read_best_of_n_datasets(folder, rollouts, ["Math"], 1)
    with pytest.raises(FileNotFoundError, match="MMMU"):
        read_best_of_n_datasets(folder, rollouts, ["MMMU"], 1)
    write_rollouts(rollouts, [rollout("3", 0), rollout("17", 0)])
    with pytest.raises(ValueError, match=r"questions that MathVision does not have .*rollouts.jsonl:2 '17'"):
        read_best_of_n_datasets(folder, rollouts, None, 1)
    write_rollouts(rollouts, [rollout("3", 0), rollout("3", 0)])
    with pytest.raises(ValueError, match=r"rollouts.jsonl:2 repeats sample 0 of '3' at .*rollouts.jsonl:1"):
        read_best_of_n_datasets(folder, rollouts, None, 1)
    write_rollouts(rollouts, [rollout("3", 0, benchmark="MMMU")])
    with pytest.raises(ValueError, match="MathVision: there are no rollouts for it"):
        read_best_of_n_datasets(folder, rollouts, ["MathVision"], 1)


def test_grading_by_other_rules(folder, rollouts, caplog):
    """A box counts by both rules; the last line ``0.5`` by ours alone, and the file has every verdict wrong."""
    responses = ["\\boxed{1/2}", "It would be 0.5", "\\boxed{2}"]
    rows = [
        replace(rollout("3", index), response=text, is_correct=index == 2, extracted_answer="x")
        for index, text in enumerate(responses)
    ]
    write_rollouts(rollouts, rows)
    recorded = read_best_of_n_datasets(folder, rollouts, None, 3, "file", on_missing="skip")["MathVision"]
    assert [entry.is_correct for entry in recorded[0].rollouts] == [False, False, True]
    assert recorded.rules == ["unknown"]
    for rules, verdicts, answers in (
        ("ours", [True, True, False], ["1/2", "0.5", "2"]),
        ("official", [True, False, False], [r"\frac{1}{2}", "itwouldbe0.5", "2"]),
        (None, [True, True, False], ["1/2", "0.5", "2"]),
    ):
        caplog.clear()
        dataset = read_best_of_n_datasets(folder, rollouts, None, 3, rules, on_missing="skip")["MathVision"]
        assert [entry.is_correct for entry in dataset[0].rollouts] == verdicts
        assert [entry.extracted_answer for entry in dataset[0].rollouts] == answers
        assert dataset.rules == [rules or "ours"]
        wrong = sum(row.is_correct != verdict for row, verdict in zip(rows, verdicts, strict=True))
        assert f"{wrong} of 3 verdicts differ from those of the present rules" in caplog.text


def test_each_rollout_is_graded_by_the_rules_it_names(folder, rollouts, caplog):
    text = "It would be 0.5"  # right by our rules alone
    rows = [
        replace(rollout("3", 0), response=text, is_correct=False, rules="ours"),
        replace(rollout("2", 0), response=text, is_correct=True, rules="official"),
        replace(rollout("10", 0), response=text, is_correct=False, rules="a judge"),
    ]
    write_rollouts(rollouts, rows)
    dataset = read_best_of_n_datasets(folder, rollouts, None, 1)["MathVision"]
    verdicts = {group[0].question_id: (group[0].is_correct, group[0].rules) for group in dataset.rollouts}
    assert verdicts == {"3": (True, "ours"), "2": (False, "official"), "10": (False, "a judge")}
    assert dataset.rules == ["a judge", "official", "ours"]
    assert "the rollouts are graded by different rules: a judge, official, ours" in caplog.text


def test_options_in_another_order_are_refused(tmp_path):
    answers = {"Correct Answer": "x"} | {f"Incorrect Answer {n}": f"y{n}" for n in (1, 2, 3)}
    (tmp_path / "gpqa").mkdir()
    (tmp_path / "gpqa" / "gpqa_diamond.jsonl").write_text(json.dumps({"Question": "q", "Record ID": "r", **answers}))
    order = option_order("r", 4)
    path = tmp_path / "rollouts.jsonl"
    write_rollouts(path, [replace(rollout("r", 0, "GPQA-Diamond"), option_order=order)])
    dataset = read_best_of_n_datasets(tmp_path, path, None, 1)["GPQA-Diamond"]
    assert dataset[0].rollouts[0].option_order == dataset[0].question.option_order == order
    write_rollouts(path, [replace(rollout("r", 0, "GPQA-Diamond"), option_order=order[::-1])])
    with pytest.raises(ValueError, match=r"letters mean other options: .*rollouts\.jsonl:1: field 'option_order' is"):
        read_best_of_n_datasets(tmp_path, path, None, 1)


def test_units_without_all_rollouts(tmp_path, caplog):
    dynamath_table(tmp_path)
    path = tmp_path / "rollouts.jsonl"
    rows = [rollout(f"{seed}-{variant}", 0, "DynaMath") for seed in (1, 2) for variant in range(1, 11)]
    write_rollouts(path, rows[:-1])
    with pytest.raises(
        ValueError, match=r"DynaMath: of those that have rollouts, 1 seeds \(qid 2\) .*; sample the others"
    ):
        read_best_of_n_datasets(tmp_path, path, None, 1, on_missing="skip")
    options = {"DynaMath": BenchmarkOptions(allow_incomplete=True)}
    dataset = read_best_of_n_datasets(tmp_path, path, None, 1, options=options, on_missing="skip")["DynaMath"]
    assert len(dataset) == 10
    assert "1 seeds (qid 2)" in caplog.text
    assert "left out" in caplog.text


def test_bad_rows_of_rollouts_take_their_question_with_them_and_no_other(folder, rollouts, caplog):
    """A row that is cut, and one of a question that the benchmark does not have."""
    lines = rollouts.read_text().splitlines()
    cut = next(number for number, line in enumerate(lines) if '"question_id": "3", "sample_index": 1' in line)
    lines[cut] = lines[cut][:40]
    unknown = lines[0].replace('"question_id": "2"', '"question_id": "17"')
    rollouts.write_text("\n".join([*lines, unknown]) + "\n")
    dataset = read_best_of_n_datasets(folder, rollouts, None, 4)["MathVision"]
    assert [question.question_id for question in dataset.questions] == ["10", "2"]
    assert f"{rollouts}: 1 rows cannot be used and are left out: {rollouts}:{cut + 1}: not valid JSON" in caplog.text
    assert "'3' lacks 1; left out, as rows of the rollout file were" in caplog.text
    assert "1 rollouts are of questions that MathVision does not have (were they sampled" in caplog.text
    with pytest.raises(ValueError, match=rf"rollouts.jsonl:{cut + 1}: not valid JSON"):
        read_best_of_n_datasets(folder, rollouts, None, 4, on_bad_row="error")
    # One bad row does not explain two questions.
    del lines[0]
    rollouts.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"2 questions do not have the samples 0 to 3: '2' lacks 3; '3' lacks 1"):
        read_best_of_n_datasets(folder, rollouts, None, 4)


def test_bad_rows_of_a_benchmark_take_their_rollouts_with_them(folder, rollouts, caplog):
    path = folder / "MathVision.tsv"
    rows = [dict(row.values) for row in read_table(path)]
    rows[1]["image"] = rows[1]["image"][:80]
    write_table(path, rows)
    dataset = read_best_of_n_datasets(folder, rollouts, None, 4)["MathVision"]
    assert [question.question_id for question in dataset.questions] == ["10", "3"]
    assert "MathVision: 1 rows cannot be used and are left out" in caplog.text


def test_pictures_that_the_model_refuses(folder, rollouts, family_checkpoint, caplog):
    path = folder / "MathVision.tsv"
    rows = [dict(row.values) for row in read_table(path)]
    rows[1]["image"] = encode_image(Image.new("RGB", (2100, 10)))
    write_table(path, rows)
    processor = AutoProcessor.from_pretrained(family_checkpoint("qwen2_5_vl"))
    dataset = read_best_of_n_datasets(folder, rollouts, None, 4)["MathVision"]
    dataset.leave_out_unreadable(TokenCounter(ConversationEncoder(processor, "", ("+", "-")), 12))
    assert [question.question_id for question in dataset.questions] == ["10", "3"]
    assert [dataset[index].rollouts[0].question_id for index in range(2)] == ["10", "3"]
    assert f"{path}:3 (index 2): column 'image' (2100 x 10 pixels) cannot be used with this model" in caplog.text


def test_special_tokens_are_found_before_a_run(folder, rollouts, encoder, caplog):
    write_rollouts(rollouts, [rollout("3", 0), Rollout(**{**rollout("2", 0).__dict__, "response": "a<|end|>"})])
    dataset = read_best_of_n_datasets(folder, rollouts, None, 1, on_missing="skip")["MathVision"]
    counter = TokenCounter(encoder, 12)
    dataset.leave_out_unreadable(counter)
    assert [question.question_id for question in dataset.questions] == ["3"]
    assert dataset[0].rollouts[0].question_id == "3"
    assert "1 rows cannot be used and are left out" in caplog.text
    assert "rollouts.jsonl:2: step 0: the text holds the special token '<|end|>'" in caplog.text
    dataset = read_best_of_n_datasets(folder, rollouts, None, 1, on_missing="skip", on_bad_row="error")["MathVision"]
    with pytest.raises(ValueError, match=r"rollouts.jsonl:2: step 0: the text holds the special token '<\|end\|>'"):
        dataset.leave_out_unreadable(counter)


def test_the_question_as_it_was_asked(folder, tmp_path, tiny_processor, caplog):
    """The rollout's own prompt, where the model reads it; where a rollout has none, the bare one and a notice."""
    prompts = ["How much is it?\nThink first.", "How much is it?\nThink twice.", None, None]
    rows = [replace(rollout("2", index), prompt=prompts[index]) for index in range(4)]
    write_rollouts(tmp_path / "asked.jsonl", rows)
    dataset = read_best_of_n_datasets(folder, tmp_path / "asked.jsonl", None, 4, on_missing="skip")["MathVision"]
    assert [row.prompt for row in dataset[0].rollouts] == prompts

    def texts(**rules):
        encoder = ConversationEncoder(tiny_processor, "", ("+", "-"), rules=ReadingRules(**rules))
        dataset.leave_out_unreadable(TokenCounter(encoder, 12))
        encoded = CandidateCollator(encoder)([dataset[0]]).groups[0].encoded
        prefix = encoded.prefix["input_ids"][0].tolist()
        return [encoder.processor.tokenizer.decode(prefix + suffix.tolist()) for suffix in encoded.suffixes]

    bare = texts()
    assert all("Question:\nHow much is it in picture 2?\n\n" in text for text in bare)
    assert "prompt" not in caplog.text
    asked = texts(question_text="as_asked")
    assert "Question:\nHow much is it?\nThink first.\n\n" in asked[0]
    assert "Question:\nHow much is it?\nThink twice.\n\n" in asked[1]
    assert asked[2:] == bare[2:]
    assert "2 rollouts do not say what the policy was asked" in caplog.text


def test_candidates_are_read_by_the_rules_of_the_model(folder, rollouts, tiny_processor):
    dataset = read_best_of_n_datasets(folder, rollouts, None, 4)["MathVision"]
    encoder = ConversationEncoder(tiny_processor, "", ("+", "-"), rules=ReadingRules(white_space="released"))
    item = replace(dataset[0], rollouts=tuple(replace(r, response="a\n\n\n\nb ") for r in dataset[0].rollouts))
    encoded = CandidateCollator(encoder)([item]).groups[0].encoded
    assert [len(positions) for positions in encoded.step_positions] == [3, 3, 3, 3]
