"""The programs of lightning_modules/EXTENDING.md do what it says: run in order, in one namespace."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.benchmarks.question import Grade
from lightning_modules.callbacks.candidate_scores import read_candidate_scores
from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.listed_requests import ListedRequests
from lightning_modules.generation.sampling import SamplingParameters

GUIDE = Path(__file__).parents[1] / "lightning_modules" / "EXTENDING.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the programs define; they write into a folder of their own."""
    defined = {"__name__": "guide"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("guide"))
        for program in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE):
            exec(compile(program, str(GUIDE), "exec"), defined)
        defined["folder"] = Path.cwd()
    return defined


def test_the_benchmark_reads_and_grades(names, tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    (tmp_path / "Riddles.tsv").write_text(
        f"index\tquestion\tanswer\timage\n1\tHow many?\t12\t{image}\n2\tHow few?\t1/2\t{image}\n"
    )
    benchmark = names["Riddles"]()
    first, second = benchmark.read(tmp_path)
    assert (first.question_id, first.gold, len(first.images)) == ("1", ("12",), 1)
    verdicts = [benchmark.grade(second, text) for text in (r"So \boxed{0.5}", r"So \boxed{0.6}")]
    assert [isinstance(verdict, Grade) and verdict.is_correct for verdict in verdicts] == [True, False]
    assert not benchmark.mismatches


def test_the_targets_of_the_objective(names):
    targets = names["graded"].targets(torch.tensor([[0.9, 0.3, 0.0, float("nan")]]), None, 0.0)
    assert targets[0, :3].argmax(-1).tolist() == [0, 1, 2]
    assert targets[0, 3].isnan().all()
    losses = names["graded"].loss(torch.zeros(1, 4, 3), targets, torch.ones(3))
    assert losses[0, :3] == pytest.approx(np.log(3), rel=1e-6)


def test_the_scores_of_the_critic_are_read(names):
    (row,) = read_candidate_scores(names["folder"] / "my_critic.jsonl")
    assert row == names["score"]


def test_the_method_picks(names):
    class Pool:
        lengths = np.array([[5.0, 9.0], [7.0, 3.0]])
        correct = np.array([[0.0, 1.0], [0.0, 1.0]])
        subsets, count = "first", 2

    assert names["method"].accuracies(Pool(), 2).tolist() == [1.0, 0.0]
    assert names["method"].fits(Pool())


def test_the_engine_answers(names):
    messages = [{"role": "user", "content": [{"type": "text", "text": "How many digits are there?"}]}]
    requests = [GenerationRequest(messages, [], [f"{number}/0", f"{number}/1"]) for number in range(3)]
    source = ListedRequests(requests)
    names["EchoEngine"]().serve(source, SamplingParameters())
    assert [[text.text for text in texts] for texts in source.texts.values()] == [["digits are there?"] * 2] * 3
