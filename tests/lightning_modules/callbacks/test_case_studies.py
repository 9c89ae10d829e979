import json

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_evaluation import Reader, collate_judged, evaluation_loaders, make_trainer, write_world
from torch.utils.data import DataLoader

from datamodules.process_bench.solutions import VisualProcessBenchDataset
from lightning_modules.callbacks import case_studies
from lightning_modules.callbacks.case_studies import CaseStudies
from lightning_modules.metrics.best_of_n_figure import figure_png
from lightning_modules.metrics.case_figure import CaseSolution, case_figure


@pytest.fixture
def loaders(tmp_path):
    """Two benchmarks, and a VisualProcessBench of three solutions with a red picture."""
    write_world(tmp_path)
    (tmp_path / "bench").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "bench" / "red.png")
    row = {"image": "red.png", "question": "Why $2^?", "policy_model": "p", "data_source": "MMMU"}
    steps = [{"steps": ["0.1", f"0.{n}"], "process_correctness": [1, -1]} for n in range(3)]
    lines = (json.dumps(row | {"response": each}) + "\n" for each in steps)
    (tmp_path / "bench" / "test.jsonl").write_text("".join(lines))
    judged = VisualProcessBenchDataset(tmp_path / "bench")
    return [
        DataLoader(judged, batch_size=2, collate_fn=collate_judged),
        *evaluation_loaders(tmp_path)[1:-1],
    ]


def run(loaders, folder, cases, monkeypatch, **options):
    shown = []
    draw = case_studies.case_figure
    monkeypatch.setattr(case_studies, "case_figure", lambda *given: shown.append(given) or draw(*given))
    logger = TensorBoardLogger(folder, name="", version="run")
    make_trainer(folder, callbacks=[CaseStudies(cases)], logger=logger, **options).validate(
        Reader(), loaders, verbose=False
    )
    events = EventAccumulator(str(folder / "run")).Reload()
    return shown, [tag for tag in events.Tags()["images"] if tag.startswith("case_studies/")], events


def test_what_is_shown(loaders, tmp_path, monkeypatch):
    shown, tags, events = run(loaders, tmp_path, 4, monkeypatch)
    # Two of the first dataset, one of each other: from the quarters and the middle.
    assert sorted(tags) == [
        "case_studies/DynaMath_6",
        "case_studies/LogicVista_3",
        "case_studies/VisualProcessBench_1",
        "case_studies/VisualProcessBench_3",
    ]
    image = events.Images("case_studies/VisualProcessBench_3")[0]
    assert image.encoded_image_string.startswith(b"\x89PNG")
    pictures, question, (solution,), score_range = shown[1]
    assert ([picture.getpixel((0, 0)) for picture in pictures], question) == ([(255, 0, 0)], "Why $2^?")
    assert (list(solution.steps), solution.marks, score_range) == (["0.1", "0.2"], ["✓", "✗"], (0.0, 1.0))
    assert solution.scores == pytest.approx([0.1, 0.2])
    for _, _, solutions, _ in shown[2:]:
        picked, *others = solutions
        assert ", picked, " in picked.title
        for each in solutions:
            assert each.scores == pytest.approx([float(step) for step in each.steps])
        for other in others:
            assert ("right" in picked.title) != (", right" in other.title)
            assert np.mean(picked.scores) >= np.mean(other.scores)


def test_none_where_nobody_looks(loaders, tmp_path, monkeypatch):
    assert run(loaders, tmp_path, 0, monkeypatch)[:2] == ([], [])
    with pytest.raises(ValueError, match="cases must be 0 or more, got -1"):
        CaseStudies(-1)


def test_a_run_of_a_few_batches_shows_what_it_has(loaders, tmp_path, monkeypatch):
    _, tags, _ = run(loaders, tmp_path, 6, monkeypatch, limit_val_batches=1)
    # Of samples 0 and 2, 5 and 15, 1 and 5 those in the first batches of 2, 3 and 3.
    assert sorted(tags) == ["case_studies/LogicVista_1", "case_studies/VisualProcessBench_1"]


def test_a_figure_of_hostile_texts():
    steps = ["$\\frac{1", "\0\u202e" * 3, "long " * 5000, "", "日本語"]
    solution = CaseSolution("$x_", steps, [0.0, 0.25, 0.5, 0.75, 1.0])
    figure = case_figure([], "$\\q{", [solution])
    with pytest.warns(UserWarning, match="Glyph"):
        figure_png(figure)
    texts = [text.get_text() for text in figure.texts]
    assert "$\\frac{1" in texts
    assert " 0.25" in texts
    assert not any("\0" in text for text in texts)
    assert len(texts) < 40
