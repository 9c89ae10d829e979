import pytest
from tiny_evaluation import Reader, collate_judged, judged_solutions, make_trainer
from torch.utils.data import DataLoader

from lightning_modules.callbacks.process_bench import ProcessBench
from lightning_modules.callbacks.step_scores import STEP_SCORES, read_step_scores


def test_a_test_writes_the_scores_of_all_steps(tmp_path):
    trainer = make_trainer(tmp_path, logger=False, callbacks=[ProcessBench(output_dir=str(tmp_path / "out"))])
    loader = DataLoader(judged_solutions(), batch_size=2, collate_fn=collate_judged)
    trainer.validate(Reader(), loader, verbose=False)
    assert not (tmp_path / "out" / STEP_SCORES).exists()
    trainer.test(Reader(), loader, verbose=False)
    found = read_step_scores(tmp_path / "out" / STEP_SCORES)
    assert [row.line for row in found] == [1, 2, 3, 4, 5]
    for row, solution in zip(found, judged_solutions(), strict=True):
        assert row.step_scores == pytest.approx([float(step) for step in solution.steps])
        assert (row.correctness, row.source) == (list(solution.correctness), solution.data_source)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"sample_id": "a:1", "source": "s", "step_scores": [1], "correctness": [1, 0]}',
            "1 step_scores for 2 values",
        ),
        ('{"sample_id": "a", "source": "s", "step_scores": [1], "correctness": [1]}', "must end with the row"),
        ('{"sample_id": "a:1", "source": "s", "step_scores": ["x"], "correctness": [1]}', "'step_scores' must be a"),
    ],
)
def test_a_broken_line_is_named(line, message, tmp_path):
    (tmp_path / "s.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=f"s.jsonl:1: .*{message}"):
        read_step_scores(tmp_path / "s.jsonl")


def test_an_empty_file_is_no_result(tmp_path):
    (tmp_path / "s.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"s\.jsonl holds no scores; run the test that writes it again"):
        read_step_scores(tmp_path / "s.jsonl")
