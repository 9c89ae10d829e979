import json
import math
import re
from dataclasses import replace

import pytest
import torch
from generate_engine import GenerateEngine

from datamodules.benchmarks.base import Grade
from datamodules.policy.chat import ChatRenderer
from datamodules.policy.prompt_batches import PromptCollator
from datamodules.policy.prompts import Prompt
from datamodules.supervision.rows import read_rows
from lightning_modules.annotation import MonteCarloAnnotator
from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import TransformersEngine

SAMPLING = SamplingParameters(temperature=0.5, max_new_tokens=32, seed=3)


def grade(response):
    """A rule that a model with random weights meets about as often as not."""
    return Grade(len(response) % 2 == 0, response[-1:], "test")


def make_annotator(checkpoint, **options):
    """An annotator whose policy likes blank lines."""
    settings = {"num_solutions": 5, "num_continuations": 4, "sampling": SAMPLING, **options}
    annotator = MonteCarloAnnotator(str(checkpoint), **settings).eval()
    head = annotator.backbone.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    newline = annotator.processor.tokenizer.convert_tokens_to_ids("Ċ")
    with torch.no_grad():
        head.bias[newline] = 2.2
    annotator.backbone.generation_config.eos_token_id = list(range(1, head.out_features, 60))
    return annotator


@pytest.fixture
def batch(sharp_checkpoint, picture):
    def make(annotator):
        questions = [("How many?", []), ("How many digits?", [1]), ("Is <image> larger than <image> ?", [2, 3])]
        prompts = [
            Prompt(
                prompt_id=f"prompt-{number}",
                question=question,
                image_names=tuple(f"{n}.png" for n in pictures),
                answer="2",
                source="somewhere",
                load_images=lambda pictures=pictures: [picture(n) for n in pictures],
                grade=grade,
                text=f"{question}\nThink.",
            )
            for number, (question, pictures) in enumerate(questions)
        ]
        return PromptCollator(ChatRenderer(annotator.processor))(prompts)

    return make


RELEASED = {"continue_last_step": True, "continue_after": "step", "white_space": "released"}


def recount(annotator, batch, max_steps, released=False, early_stop=False):
    """Steps and counts (of how many) of every solution, each text sampled by itself, one after the other.

    Args:
        released: Keep what stands between blank lines as it is, continue behind a step, and the last one, too.
        early_stop: Draw nothing behind a step without a success.
    """
    engine = TransformersEngine.of(annotator.backbone, annotator.processor)
    counted = []
    for prompt, images, messages in zip(batch.prompts, batch.images, batch.messages, strict=True):
        for solution in range(annotator.plan.num_solutions):
            key = f"{prompt.prompt_id}/solution/{solution}"
            ((response,),) = engine.sample([GenerationRequest(messages, images, [key])], SAMPLING)
            pieces = re.split("\n\n", response.text)
            steps = pieces if released else [piece.strip() for piece in pieces if piece.strip()] or [""]
            if len(steps) > max_steps:
                size = math.ceil(len(steps) / max_steps)
                steps = ["\n\n".join(steps[start : start + size]) for start in range(0, len(steps), size)]
            counts = []
            for count in range(1, len(steps) + released):
                if early_stop and counts and counts[-1][0] == 0:
                    counts.append((0, 0))
                    continue
                prefix = "\n\n".join(steps[:count]) if released else "".join(f"{step}\n\n" for step in steps[:count])
                reached = 0
                for k in range(annotator.plan.num_continuations):
                    request = GenerationRequest(messages, images, [f"{prompt.prompt_id}/{prefix}/{k}"], prefix)
                    ((continuation,),) = engine.sample([request], SAMPLING)
                    reached += grade(prefix + continuation.text).is_correct
                counts.append((reached, annotator.plan.num_continuations))
            if not released:
                # The last step ends the solution: nothing is left to sample, so that it is one of one or none of one.
                counts.append((int(grade("\n\n".join(steps)).is_correct), 1))
            counted.append((prompt.prompt_id, steps, counts))
    return counted


@pytest.mark.parametrize(
    ("max_steps", "options"),
    [
        (12, {}),
        pytest.param(2, {}, marks=pytest.mark.thorough),
        pytest.param(12, RELEASED, marks=pytest.mark.thorough),
        (3, RELEASED | {"early_stop": True}),
    ],
)
def test_counts_equal_a_recount_one_by_one(sharp_checkpoint, batch, max_steps, options):
    fewer = {"num_continuations": 2} if options else {}
    annotator = make_annotator(sharp_checkpoint, max_steps=max_steps, **options, **fewer)
    asked = batch(annotator)
    found = annotator.predict_step(asked, 0)
    assert [prompt_id for prompt_id, _ in found] == ["prompt-0", "prompt-1", "prompt-2"]
    rows = [(prompt_id, row) for prompt_id, of_prompt in found for row in of_prompt]
    expected = recount(annotator, asked, max_steps, bool(options), "early_stop" in options)
    for (prompt_id, row), (expected_id, steps, counts) in zip(rows, expected, strict=True):
        scored = row["steps_with_score"]
        assert prompt_id == expected_id
        assert [step["step"] for step in scored] == steps
        assert [(step["num_mc_correct"], step["num_mc_total"]) for step in scored] == counts
        assert [step["score"] for step in scored] == [correct / max(total, 1) for correct, total in counts]
        assert row["response"] == "\n\n".join(steps)
        assert row["num_mc_sequences"] == annotator.plan.num_continuations
        of_question = [
            grade("\n\n".join(of_solution)).is_correct for other_id, of_solution, _ in expected if other_id == prompt_id
        ]
        assert row["question_accuracy"] == sum(of_question) / annotator.plan.num_solutions
    seen = {
        correct for _, _, counts in expected for correct, total in counts if total == annotator.plan.num_continuations
    }
    assert len(seen) >= 2, "the counts should differ, or the comparison says little"
    if "early_stop" in options:
        assert any((0, 0) in counts for _, _, counts in expected), "no solution was stopped"
    if options:
        assert any(step != step.strip() for _, steps, _ in expected for step in steps), "no white space was kept"
    longest = max(len(steps) for _, steps, _ in expected)
    assert longest == max_steps if max_steps < 12 else longest > 2


def test_the_number_of_rows_decoded_at_once_changes_nothing(sharp_checkpoint, batch):
    annotator = make_annotator(sharp_checkpoint, max_batch_rows=256)
    expected = annotator.predict_step(batch(annotator), 0)
    for max_batch_rows in (5, 11):
        other = make_annotator(sharp_checkpoint, max_batch_rows=max_batch_rows)
        assert other.predict_step(batch(other), 0) == expected


def test_a_prompt_is_annotated_alone_as_in_a_batch(sharp_checkpoint, batch):
    annotator = make_annotator(sharp_checkpoint)
    asked = batch(annotator)
    together = annotator.predict_step(asked, 0)
    for index in range(3):
        alone = batch(annotator)
        for name in ("prompts", "images", "messages"):
            setattr(alone, name, [getattr(asked, name)[index]])
        assert annotator.predict_step(alone, 0) == [together[index]]


def test_equal_prefixes_are_continued_once(sharp_checkpoint, batch):
    """At temperature 0 all solutions are one: each step is continued K times, and each picture is read once."""
    annotator = make_annotator(
        sharp_checkpoint, num_solutions=4, sampling=SamplingParameters(temperature=0, max_new_tokens=24)
    )
    annotator.backbone.get_output_embeddings().bias.data.clamp_(max=1.8)
    images = []
    annotator.backbone.model.vision_tower.register_forward_hook(lambda _, __, output: images.append(len(output[0])))
    found = annotator.predict_step(batch(annotator), 0)
    for prompt_id, rows in found:
        assert len(rows) == 4
        assert all(row["steps_with_score"] == rows[0]["steps_with_score"] for row in rows)
        continued = len(rows[0]["steps_with_score"]) - 1
        costs = annotator.prediction_costs[prompt_id]
        assert (costs["solutions"], costs["continuations"]) == (4, 4 * continued)
        assert costs["requests"] == 1 + continued
    assert max(len(rows[0]["steps_with_score"]) for _, rows in found[1:]) > 1
    assert sum(images) == 0 + 1 + 2


def test_rows_are_read_again(sharp_checkpoint, batch, picture, tmp_path):
    for number in range(1, 4):
        picture(number).save(tmp_path / f"{number}.png")
    annotator = make_annotator(sharp_checkpoint)
    rows = [row for _, of_prompt in annotator.predict_step(batch(annotator), 0) for row in of_prompt]
    assert [row["id"] for row in rows] == [f"prompt-{p}/{s}" for p in range(3) for s in range(5)]
    assert [row.get("image") for row in rows[::5]] == [None, "1.png", ["2.png", "3.png"]]
    for row in rows:
        assert row["answer"] == "2"
        assert row["question"] == f"{row['question_orig']}\nThink."
        assert row["source"] == "somewhere"
        assert row["num_mc_sequences"] == 4
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_rows([file], cache_dir=tmp_path / "cache")
    assert len(table) == 15
    for number, (row, read) in enumerate(zip(rows, table, strict=True)):
        scored = row["steps_with_score"]
        assert read["steps"] == [step["step"] for step in scored]
        assert read["mc"] == [step["score"] for step in scored]
        assert read["num_mc_correct"] == [step["num_mc_correct"] for step in scored]
        assert read["num_mc_total"] == [4] * (len(scored) - 1) + [1]
        assert read["question_accuracy"] == row["question_accuracy"]
        assert read["source"] == "somewhere"
        names = [[], ["1.png"], ["2.png", "3.png"]][number // 5]
        assert read["images"] == [str(tmp_path / name) for name in names]


def test_empty_solutions(sharp_checkpoint, batch, picture, tmp_path):
    """A policy that ends at once: one empty step, graded as what it is, and readable again."""
    for number in range(1, 4):
        picture(number).save(tmp_path / f"{number}.png")
    annotator = make_annotator(sharp_checkpoint)
    annotator.backbone.get_output_embeddings().bias.data[1] = 1000.0
    rows = [row for _, of_prompt in annotator.predict_step(batch(annotator), 0) for row in of_prompt]
    expected = [{"step": "", "score": 1.0, "num_mc_correct": 1, "num_mc_total": 1}]
    assert [row["steps_with_score"] for row in rows] == [expected] * 15
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_rows([tmp_path / "rows.jsonl"], cache_dir=tmp_path / "cache")
    assert [row["steps"] for row in table] == [[""]] * 15


def test_too_few_rows_at_once(sharp_checkpoint):
    with pytest.raises(ValueError, match=r"max_batch_rows \(15\) must hold the samples of one prompt"):
        MonteCarloAnnotator(str(sharp_checkpoint), num_continuations=16, max_batch_rows=15)


def test_solutions_and_continuations_have_temperatures_of_their_own(sharp_checkpoint, batch):
    """Nearly greedy continuations of varied solutions: each of the K is the same, so scores are 0 or 1."""
    cold = SamplingParameters(temperature=1e-4, max_new_tokens=32, seed=3)
    varied, greedy = (
        make_annotator(sharp_checkpoint, sampling=cold, solution_temperature=temperature) for temperature in (0.5, None)
    )
    rows, greedy_rows = (
        [row for _, of_prompt in annotator.predict_step(batch(annotator), 0) for row in of_prompt]
        for annotator in (varied, greedy)
    )
    assert len({row["response"] for row in rows}) > 3 == len({row["response"] for row in greedy_rows})
    scores = {step["score"] for row in [*rows, *greedy_rows] for step in row["steps_with_score"]}
    assert scores == {0.0, 1.0}
    # How often warm solutions are right does not say how often cold ones would be.
    assert all("question_accuracy" not in row for row in rows)
    assert all("question_accuracy" in row for row in greedy_rows)
    # The sampled solutions are those of an annotator that is as warm in everything.
    warm = make_annotator(sharp_checkpoint, sampling=SAMPLING)
    warm_rows = [row for _, of_prompt in warm.predict_step(batch(warm), 0) for row in of_prompt]
    assert [row["response"] for row in rows] == [row["response"] for row in warm_rows]


def test_another_engine_continues_the_prefixes(sharp_checkpoint, batch):
    """Greedy annotation with the model's own `generate`, which reads each prefix by itself."""
    greedy = {"sampling": SamplingParameters(temperature=0, max_new_tokens=24)}
    ours = make_annotator(sharp_checkpoint, **greedy)
    theirs = make_annotator(sharp_checkpoint, engine=GenerateEngine(), **greedy)
    for annotator in (ours, theirs):
        annotator.backbone.get_output_embeddings().bias.data.clamp_(max=1.8)
    found = theirs.predict_step(batch(theirs), 0)
    assert found == ours.predict_step(batch(ours), 0)
    assert max(len(row["steps_with_score"]) for _, rows in found for row in rows) > 1


@pytest.mark.parametrize("bare", [False, True])
def test_rows_give_the_question_as_it_was_asked_and_alone(sharp_checkpoint, batch, bare):
    chosen = {"question_text": "bare"} if bare else {}
    annotator = make_annotator(sharp_checkpoint, num_solutions=1, num_continuations=1, **chosen)
    asked = batch(annotator)
    rows = [row for _, of_prompt in annotator.predict_step(asked, 0) for row in of_prompt]
    assert [(row["question"], row["question_orig"]) for row in rows] == [
        (question if bare else f"{question}\nThink.", question)
        for question in ("How many?", "How many digits?", "Is <image> larger than <image> ?")
    ]


def test_choices_are_named_only_where_they_are_not_ours(sharp_checkpoint):
    """Annotations that were begun before there was a choice go on."""
    ours = MonteCarloAnnotator(str(sharp_checkpoint), question_text="bare").prediction_settings
    numbers = {"num_solutions", "num_continuations", "max_steps"}
    assert set(ours) == {"model", "weights", "sampling", "solution_sampling"} | numbers
    released = MonteCarloAnnotator(str(sharp_checkpoint), **RELEASED).prediction_settings
    assert released == ours | RELEASED | {"question_text": "as_asked"}


def test_max_tiles_of_a_prompt_reaches_its_solutions_and_continuations(sharp_checkpoint, batch):
    class Recorder(TransformersEngine):
        asked: list = []  # noqa: RUF012

        def serve(self, source, parameters):
            take = source.take

            def recorded(room):
                taken = take(room)
                self.asked += [(request.max_tiles, len(request.sample_keys)) for request in taken]
                return taken

            source.take = recorded
            super().serve(source, parameters)

    annotator = make_annotator(sharp_checkpoint, engine=Recorder(), continue_last_step=True)
    asked = batch(annotator)
    asked.prompts = [replace(prompt, max_tiles=most) for prompt, most in zip(asked.prompts, (None, 2, 3), strict=True)]
    annotator.predict_step(asked, 0)
    # 5 solutions and 4 continuations.
    assert set(Recorder.asked) == {(None, 5), (2, 5), (3, 5), (None, 4), (2, 4), (3, 4)}


def test_first_success_gives_the_labels_of_all_continuations(sharp_checkpoint, batch):
    """With the same seed: each step is drawn up to the first success of the continuations that `all` draws."""
    everything, stopped = (
        make_annotator(sharp_checkpoint, stopping=stopping, num_continuations=8)
        for stopping in ("all", "first_success")
    )
    asked = batch(everything)
    asked.prompts = [
        replace(prompt, grade=lambda response: Grade(len(response) % 5 == 0, "2", "test")) for prompt in asked.prompts
    ]
    rows, fewer = (
        [row for _, of_prompt in annotator.predict_step(asked, 0) for row in of_prompt]
        for annotator in (everything, stopped)
    )
    totals = []
    for row, other in zip(rows, fewer, strict=True):
        assert row["response"] == other["response"]
        for step, found in zip(row["steps_with_score"], other["steps_with_score"], strict=True):
            assert (step["score"] > 0) == (found["score"] > 0)
            assert found["num_mc_correct"] == min(1, step["num_mc_correct"])
            totals.append(found["num_mc_total"])
    assert len(set(totals)) > 2
    spent = [sum(c["continuations"] for c in each.prediction_costs.values()) for each in (everything, stopped)]
    assert spent[1] < spent[0]
    assert stopped.prediction_settings["stopping"] == "first_success"
    assert "confidence" not in stopped.prediction_settings
