import pytest
from tiny_evaluation import Reader, collate_process, make_trainer, process_rows
from torch.utils.data import DataLoader

from lightning_modules.callbacks.evaluation import EvaluationCallback
from lightning_modules.metrics.table import Cell, Table


class Steps(EvaluationCallback[int]):
    """Reports how many steps each solution has."""

    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def check(self, trainer, pl_module):
        self.calls.append("check")

    def begin_epoch(self, trainer, pl_module):
        self.calls.append("begin")

    def rows_of_batch(self, trainer, pl_module, outputs, batch):
        for name, (scores,) in zip(batch.sample_ids, outputs.step_scores, strict=True):
            yield (name,), len(scores)

    def report_on(self, trainer, pl_module, rows):
        self.calls.append(rows)
        self.log_metrics(pl_module, {"steps": sum(rows)})
        self.publish(trainer, "steps", {"steps": sum(rows)}, Table("Steps", ["All"], [[Cell(str(sum(rows)))]]))


@pytest.mark.parametrize("command", ["validate", "test"])
def test_rows_come_in_the_order_of_their_keys_each_key_once(tmp_path, capsys, command):
    rows = process_rows()[:4]
    loader = DataLoader([*reversed(rows), rows[0]], batch_size=2, collate_fn=collate_process)
    steps = Steps(output_dir=str(tmp_path))
    trainer = make_trainer(tmp_path, logger=False, default_root_dir=tmp_path, callbacks=[steps])
    (metrics,) = getattr(trainer, command)(Reader(), loader, verbose=False)
    assert steps.calls == ["check", "begin", [1, 2, 3, 4]]
    assert metrics == {"steps": 10.0}
    assert (tmp_path / f"steps_{command}.md").read_text().startswith("### Steps")
    assert capsys.readouterr().out.count("Steps") == 1


def test_the_sanity_check_of_fit_is_no_evaluation(tmp_path):
    rows = DataLoader(process_rows()[:2], batch_size=2, collate_fn=collate_process)
    steps = Steps()
    trainer = make_trainer(tmp_path, logger=False, default_root_dir=tmp_path, callbacks=[steps], max_epochs=1)
    trainer.fit(Reader(), DataLoader([0.0]), rows)
    assert [call for call in steps.calls if isinstance(call, list)] == [[1, 2]]
