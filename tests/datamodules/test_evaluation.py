import pytest
import torch
from cli_runs import visualprm

from datamodules.batching.candidate_batch import CandidateBatch
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.evaluation import EvaluationDataModule
from datamodules.interfaces import PolicyFacts, RewardModelFacts
from datamodules.process_bench.solutions import ProcessBenchBatch
from datamodules.visual_prm_400k import VisualPRM400KDataModule


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_the_dataloaders(evaluation, tiny_checkpoint, stage):
    module = EvaluationDataModule(**evaluation, model_name_or_path=str(tiny_checkpoint))
    module.setup(stage)
    assert module.validation_names == ["VisualProcessBench", "MathVision"]
    bench, benchmark = map(list, module.val_dataloader() if stage == "validate" else module.test_dataloader())
    assert isinstance(bench[0], ProcessBenchBatch)
    assert bench[0].correctness.tolist() == [[1, -1]]
    assert isinstance(benchmark[0], CandidateBatch)
    assert [batch.sample_ids for batch in benchmark] == [["MathVision/0", "MathVision/1"], ["MathVision/2"]]
    assert [len(group.responses) for batch in benchmark for group in batch.groups] == [2, 2, 2]


def test_what_the_model_says_counts(evaluation, tiny_processor):
    encoder = ConversationEncoder(tiny_processor, "Judge.", ("+", "-"))
    module = EvaluationDataModule(**evaluation)
    module.setup("test")
    with pytest.raises(RuntimeError, match="no model has connected"):
        module.test_dataloader()
    module.connect(RewardModelFacts(encoder, max_steps=1, response_as_one_step=False))
    bench, benchmark = module.test_dataloader()
    # Judged steps are never merged; those of solutions are.
    (batch,) = bench
    assert batch.step_positions.shape == (1, 2)
    assert "Judge." in tiny_processor.tokenizer.decode(batch.inputs["input_ids"][0])
    group = next(iter(benchmark)).groups[0]
    assert [len(positions) for positions in group.encoded.step_positions] == [1, 1]
    module.connect(RewardModelFacts(encoder, max_steps=12, response_as_one_step=True))
    assert module.validation_names == ["MathVision"]


def test_wrong_models(tiny_processor):
    encoder = ConversationEncoder(tiny_processor, "", ("+", "-"))
    with pytest.raises(ValueError, match="data module has max_steps=5, but the model was made for 12"):
        EvaluationDataModule(max_steps=5).connect(RewardModelFacts(encoder, 12, False))
    with pytest.raises(
        TypeError, match=r"EvaluationDataModule is for reward models; a policy takes .*PromptDataModule"
    ):
        EvaluationDataModule().connect(PolicyFacts(tiny_processor))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"benchmarks": "a"}, "go together; one of them is missing"),
        ({"rollouts": "a"}, "go together; one of them is missing"),
        ({"candidates_per_question": 0}, "candidates_per_question must be at least 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, got 0"),
        ({"questions_per_batch": -1}, "questions_per_batch must be at least 1, got -1"),
    ],
)
@pytest.mark.parametrize("kind", [EvaluationDataModule, VisualPRM400KDataModule])
def test_bad_arguments(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("kind", [EvaluationDataModule, VisualPRM400KDataModule])
def test_nothing_to_evaluate_on(kind, stage):
    module = kind()
    module.setup(stage)
    with pytest.raises(
        ValueError, match=f"nothing to {stage} on; give .* visual_process_bench, or benchmarks and roll"
    ):
        module.test_dataloader()


def metrics_of_test(folder, *arguments):
    """`visualprm test` on the CPU; returns the names of the dataloaders and the metrics."""
    cli = visualprm(folder, "test", *arguments, "--trainer.accelerator=cpu", "--trainer.devices=1", "--verbose=false")
    return cli.datamodule.validation_names, cli.trainer.callback_metrics


@pytest.fixture
def options(evaluation):
    return [f"--data.{name}={value}" for name, value in evaluation.items()]


def test_the_command_without_training_rows(evaluation, options, tiny_checkpoint, tmp_path, monkeypatch):
    """The configuration of a training run tests where its annotations do not exist, and so does the module alone."""
    monkeypatch.setenv("VISUALPRM_BASE", str(tiny_checkpoint))
    monkeypatch.setenv("VISUALPRM_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("VISUALPRM_WORKERS", "0")
    options.append("--trainer.precision=32-true")
    full = ["--config=experiments/visualprm_8b/full.yaml", *options]
    seen = [metrics_of_test(tmp_path / "run", *full)]
    alone = [
        "--data=datamodules.evaluation.EvaluationDataModule",
        "--model=lightning_modules.process_reward.ProcessRewardModel",
        f"--model.model_name_or_path={tiny_checkpoint}",
        "--trainer.logger=false",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.callbacks+=lightning_modules.callbacks.best_of_n.BestOfN",
        "--trainer.callbacks+=lightning_modules.callbacks.process_bench.ProcessBench",
    ]
    seen.append(metrics_of_test(tmp_path / "run", *alone, "--data.eval_batch_size=4", *options))
    for names, metrics in seen:
        assert names == ["VisualProcessBench", "MathVision"]
        assert {"best_of_n/overall", "process_bench/macro_f1"} <= metrics.keys()
        assert not [name for name in metrics if name.startswith("validation/")]
    for name, value in seen[0][1].items():
        assert torch.equal(value, seen[1][1][name]), name
