import pytest
from lightning.pytorch import LightningDataModule, Trainer

from datamodules.batching.position import ResumableData
from datamodules.evaluation import EvaluationDataModule
from datamodules.interfaces import (
    EvaluationData,
    PolicyData,
    PredictionSettings,
    ProcessSupervisionData,
    PromptData,
    RewardModelData,
    data_module_of,
    evaluation_name,
)
from datamodules.prompts_datamodule import PromptDataModule
from datamodules.visual_prm_400k import VisualPRM400KDataModule

OF_REWARD_MODELS = {RewardModelData, EvaluationData}
OF_POLICIES = {PolicyData, PromptData, PredictionSettings, ResumableData}


@pytest.mark.parametrize(
    ("kind", "interfaces"),
    [
        (EvaluationDataModule, OF_REWARD_MODELS),
        (VisualPRM400KDataModule, OF_REWARD_MODELS | {ProcessSupervisionData, ResumableData}),
        (PromptDataModule, OF_POLICIES),
        (LightningDataModule, set()),
    ],
)
def test_what_each_data_module_declares(kind, interfaces):
    module = kind()
    told = {RewardModelData, PolicyData}  # both are a `connect`; the data module refuses the wrong facts
    found = {each for each in OF_REWARD_MODELS | OF_POLICIES | {ProcessSupervisionData} if isinstance(module, each)}
    assert found - told == interfaces - told
    assert bool(found & told) == bool(interfaces & told)


class Named(LightningDataModule):
    """Somebody's own, which takes part in one interface."""

    validation_names = ("process", "mine")


def test_names_of_evaluation_dataloaders():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert data_module_of(trainer) is None
    assert evaluation_name(trainer, 0) == ""
    trainer.datamodule = Named()
    assert [evaluation_name(trainer, index) for index in range(2)] == ["process", "mine"]
    trainer.datamodule = LightningDataModule()
    assert evaluation_name(trainer, 0) == ""
