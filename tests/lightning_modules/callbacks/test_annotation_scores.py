import math

import pytest
from tiny_evaluation import Reader, collate_judged, collate_process, judged_solutions, make_trainer, process_rows
from torch.utils.data import DataLoader

from lightning_modules.callbacks.annotation_scores import ANNOTATION_SCORES, AnnotationScores, read_annotation_scores


@pytest.mark.parametrize("command", ["validate", "test"])
def test_scores_stand_beside_monte_carlo_scores(tmp_path, command):
    loaders = [
        DataLoader(judged_solutions(), batch_size=2, collate_fn=collate_judged),
        DataLoader(process_rows(), batch_size=2, collate_fn=collate_process),
    ]
    trainer = make_trainer(tmp_path, logger=False, callbacks=[AnnotationScores(str(tmp_path / "out"))])
    getattr(trainer, command)(Reader(), loaders, verbose=False)
    found = {row.sample_id: row for row in read_annotation_scores(tmp_path / "out" / ANNOTATION_SCORES)}
    assert list(found) == [name for name, _, _ in process_rows()]
    for name, scores, mc in process_rows():
        assert found[name].step_scores == pytest.approx(scores)
        assert found[name].mc == [None if math.isnan(value) else value for value in mc]


def test_fit_writes_nothing(tmp_path):
    rows = DataLoader(process_rows(), batch_size=2, collate_fn=collate_process)
    callback = AnnotationScores(str(tmp_path / "out"))
    trainer = make_trainer(tmp_path, logger=False, max_epochs=1, callbacks=[callback])
    trainer.fit(Reader(), DataLoader([0.0]), rows)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sample_id": "a:1", "step_scores": [0.5], "mc": [1.0, null]}', "1 step_scores for 2 values of mc"),
        ('{"sample_id": "a", "step_scores": [0.5], "mc": [1.0]}', "field 'sample_id' must end with the row"),
        ('{"sample_id": "a:1", "step_scores": [0.5], "mc": ["x"]}', "field 'mc' must be a finite number, got 'x'"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, message):
    (tmp_path / "s.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=f"s.jsonl:1: {message}"):
        read_annotation_scores(tmp_path / "s.jsonl")
