import json
from dataclasses import replace

import pytest
from lightning.pytorch import LightningDataModule
from tiny_evaluation import Reader, collate_candidates, collate_judged, judged_solutions, make_trainer, write_world
from torch.utils.data import DataLoader

from datamodules.best_of_n import read_best_of_n_datasets
from lightning_modules.callbacks.picture_controls import PictureControls
from lightning_modules.callbacks.process_bench import ProcessBench


def upside_down(solution):
    """The solution as it reads with other pictures: a step's score is 1 minus what it was."""
    return replace(solution, steps=tuple(str(1 - float(step)) for step in solution.steps))


class Data(LightningDataModule):
    """Judged solutions, whose scores turn round with other pictures and are alike without any, and LogicVista."""

    def __init__(self, folder):
        super().__init__()
        datasets = read_best_of_n_datasets(
            folder, folder / "rollouts.jsonl", ["LogicVista"], num_candidates=4, rules="file"
        )
        self.candidates = DataLoader(datasets["LogicVista"], batch_size=3, collate_fn=collate_candidates)
        self.validation_names = ["VisualProcessBench", "LogicVista"]

    def judged(self, change=lambda solution: solution):
        rows = [change(solution) for solution in judged_solutions()]
        return DataLoader(rows, batch_size=2, collate_fn=collate_judged)

    def test_dataloader(self):
        return [self.judged(), self.candidates]

    def control_dataloaders(self, control):
        change = upside_down if control == "other" else lambda each: replace(each, steps=("0.5",) * len(each.steps))
        return [("VisualProcessBench", self.judged(change), 0), ("LogicVista", self.candidates, 7)]

    def pictured_ids(self, name):
        if name == "LogicVista":
            return [str(number) for number in range(6)]  # the last question is a text alone
        return [solution.sample_id for solution in judged_solutions()]


def run(folder, *others):
    write_world(folder)
    callbacks = [PictureControls(bootstrap=50), *others]
    trainer = make_trainer(folder, logger=False, default_root_dir=folder, callbacks=callbacks)
    (metrics, *_) = trainer.test(Reader(), datamodule=Data(folder), verbose=False)
    return metrics, json.loads((folder / "picture_controls_test.json").read_text())["metrics"]


def test_a_report_under_three_conditions(tmp_path, capsys):
    judge = ProcessBench()
    metrics, stored = run(tmp_path, judge)
    by_name = {use["name"]: use for use in stored}
    auroc = by_name["VisualProcessBench: AUROC"]
    # Scores that turn round turn the order round; scores that are all alike tie.
    assert auroc["values"]["right"] == pytest.approx(judge.report.overall.auroc)
    assert auroc["values"]["other"] == pytest.approx(1 - judge.report.overall.auroc)
    assert auroc["values"]["none"] == 0.5
    assert auroc["difference"] == pytest.approx(2 * judge.report.overall.auroc - 1, abs=1e-6)
    vista = by_name["LogicVista: Best-of-N"]
    assert vista["items"] == 6
    assert len(set(vista["values"].values())) == 1
    assert vista["difference"] == 0
    assert metrics["picture_controls/VisualProcessBench: AUROC/none"] == 0.5
    assert "Does it look? (%)" in capsys.readouterr().out
    assert judge.report.overall.solutions == 5  # other callbacks see the right pictures alone


def test_a_data_module_without_controls_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, logger=False, default_root_dir=tmp_path, callbacks=[PictureControls()])
    loader = DataLoader(judged_solutions(), batch_size=2, collate_fn=collate_judged)
    with pytest.raises(TypeError, match="PictureControls needs a data module that has control_dataloaders"):
        trainer.test(Reader(), loader, verbose=False)
