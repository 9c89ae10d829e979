"""The presets under experiments/released, run with a tiny policy: what is asked, and the form of the rows."""

import json
import re
from collections.abc import Sequence

import pytest
from cli_runs import parsed, visualprm
from PIL import Image
from released_benchmarks import mmmu_table

from lightning_modules.generation.engine import GeneratedText, GenerationRequest, RequestSource
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import TransformersEngine

V1_1, FIRST = (f"--config=experiments/released/{name}.yaml" for name in ("visualprm_400k_v1_1", "visualprm_400k"))
BEST_OF_N = "--config=experiments/released/best_of_n.yaml"
SMALL = ["--trainer.accelerator=cpu", "--model.sampling.max_new_tokens=24"]
INSTRUCTION = (
    "Answer the preceding question. The last line of your response should follow this format: "
    "'Answer: \\boxed{$FINAL_ANSWER}' (without quotes), where 'FINAL_ANSWER' is your conclusion based on the "
    "reasoning provided. If you are uncertain or the problem is too complex, make a reasoned guess based on the "
    "information provided. Avoid repeating steps indefinitely—provide your best guess even if unsure. Think step by "
    "step logically, considering all relevant information before answering."
)


class ManySteps(TransformersEngine):
    """Samples from the tiny policy, whose texts hold hardly any blank line, and makes 40 steps of each."""

    def serve(self, source: RequestSource, parameters: SamplingParameters) -> None:
        """As the base class; a step is a space and a letter, dots for white space and for what is missing."""
        super().serve(_InManySteps(source), parameters)


class _InManySteps:
    def __init__(self, source: RequestSource) -> None:
        self.take = source.take
        self.source = source

    def receive(self, request: GenerationRequest, texts: Sequence[GeneratedText]) -> None:
        letters = [re.sub(r"\s", ".", f"{found.text:.<40}"[:40]) for found in texts]
        self.source.receive(
            request,
            [
                found._replace(text="\n\n".join(f" {letter}" for letter in some))
                for found, some in zip(texts, letters, strict=True)
            ],
        )


MANY_STEPS = "--model.engine=test_released_recipes.ManySteps"


@pytest.fixture
def rows_of(tmp_path, tiny_checkpoint, monkeypatch):
    """Runs a command with a tiny policy and gives the rows that it has written."""
    Image.effect_noise((40, 20), 60).save(tmp_path / "a.png")
    prompts = [
        {"id": 7, "image": "a.png", "question": "<image>\nIs it?\nPlease answer Yes or No.", "answer": "Yes"},
        {"id": 8, "image": "a.png", "question": "What in <image> is 5?", "answer": "5", "source": "chartqa_train"},
        {"id": 9, "image": "a.png", "question": "<image>\nWho?", "answer": "Smith", "source": "docvqa_train"},
    ]
    file = tmp_path / "geos_en.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (tmp_path / "tables").mkdir()
    mmmu_table(tmp_path / "tables")
    for name, value in (
        ("POLICY", tiny_checkpoint),
        ("PROMPTS", file),
        ("IMAGES", tmp_path),
        ("BENCHMARKS", tmp_path / "tables"),
    ):
        monkeypatch.setenv(f"VISUALPRM_{name}", str(value))

    def run(output, *arguments):
        visualprm(tmp_path / "run", "predict", *arguments, *SMALL)
        return [json.loads(line) for line in (tmp_path / "run" / output).read_text().splitlines()]

    return run


def test_annotation_as_released(rows_of):
    few = ["--model.num_solutions=2", "--model.num_continuations=3", "--data.without_sources=[docvqa]"]
    rows = rows_of("visualprm_400k_v1_1.jsonl", V1_1, MANY_STEPS, *few)
    assert [row["id"] for row in rows] == ["7/0", "7/1", "8/0", "8/1"]
    assert [row["source"] for row in rows] == ["geos_en"] * 2 + ["chartqa_train"] * 2
    assert [row["question"] for row in rows[::2]] == [
        f"<image>\nIs it?\n{INSTRUCTION}",
        f"<image>\nWhat in  is 5?\n{INSTRUCTION}",
    ]
    questions = ["<image>\nIs it?\nPlease answer Yes or No.", "What in <image> is 5?"]
    assert [row["question_orig"] for row in rows[::2]] == questions
    for row in rows:
        assert row["image"] == "a.png"
        assert row["num_mc_sequences"] == 3
        steps = row["steps_with_score"]
        assert "\n\n".join(step["step"] for step in steps) == row["response"]
        # At most 16 steps: of 40 pieces three make one, and one is left over. White space is kept.
        assert [step["step"].count("\n\n") + 1 for step in steps] == [3] * 13 + [1]
        assert all(step["step"].startswith(" ") for step in steps)
        assert {step["num_mc_total"] for step in steps} == {3}  # the last one, too
        assert [step["score"] for step in steps] == [step["num_mc_correct"] / 3 for step in steps]


def test_annotation_as_first_released_stops_early(rows_of):
    """A tiny policy never answers: behind the first step, which has the score 0, nothing is drawn."""
    few = ["--model.num_solutions=4", "--model.num_continuations=2"]
    rows = rows_of("visualprm_400k.jsonl", V1_1, FIRST, MANY_STEPS, *few, "--data.grading=ours")
    assert len(rows) == 12
    assert {len(row["steps_with_score"]) for row in rows} == {10}  # at most 12: of 40 pieces four make one
    for row in rows:
        totals = [step["num_mc_total"] for step in row["steps_with_score"]]
        assert totals == [2, *[0] * (len(totals) - 1)]
        assert {step["score"] for step in row["steps_with_score"]} == {0.0}


def test_the_first_release_differs_in_two_numbers(tmp_path):
    v1_1, first = (parsed(tmp_path, "predict", *files)["model"]["init_args"] for files in ([V1_1], [V1_1, FIRST]))
    changed = {name: (v1_1[name], value) for name, value in first.items() if v1_1[name] != value}
    assert changed == {"max_steps": (16, 12), "early_stop": (False, True)}


def test_both_presets_follow_the_released_numbers(tmp_path):
    """`visualprm_mmpr_8b.sh` and the defaults of `visualprm_data_pieline.py`; `InternVLChat.generate_v2`."""
    config = parsed(tmp_path, "predict", V1_1)
    sampling = config["model"]["init_args"]["sampling"]
    assert sampling == {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "max_new_tokens": 4096, "seed": 0, "stop": ()}
    assert {name: config["model"]["init_args"][name] for name in ("num_solutions", "num_continuations")} == {
        "num_solutions": 4,
        "num_continuations": 16,
    }
    sampling = parsed(tmp_path, "predict", BEST_OF_N)["model"]["init_args"]["sampling"]
    assert sampling == {"temperature": 0.6, "top_k": 50, "top_p": 0.95, "max_new_tokens": 4096, "seed": 0, "stop": ()}


def test_best_of_n_as_vlmevalkit_asks(rows_of):
    options = ["--data.benchmark_names=[MMMU]", "--data.max_prompts=2", "--model.num_samples=3"]
    rows = rows_of("rollouts.jsonl", BEST_OF_N, *options)
    assert [(row["question_id"], row["sample_index"]) for row in rows] == [
        (name, number) for name in ("validation_Accounting_1", "validation_Agriculture_1") for number in range(3)
    ]
    drawn = [(row["temperature"], row["top_p"], row.get("top_k")) for row in rows]
    assert drawn == [(0.0, 1.0, None), (0.6, 0.95, 50), (0.6, 0.95, 50)] * 2
    beginning = "<image>\nWhat is shown in <image 1>?\nA. a\nB. b\nAnswer the preceding multiple choice question. The"
    assert all(row["prompt"].startswith(beginning) for row in rows)
