import itertools

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.batching.candidate_batch import CandidateBatch
from datamodules.batching.collate import StepBatch
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.interfaces import RewardModelFacts
from datamodules.process_bench.solutions import ProcessBenchBatch
from datamodules.visual_prm_400k import VisualPRM400KDataModule


@pytest.fixture
def annotations(tmp_path, pictures, write_lines, raw_row):
    """Six questions with two solutions each, of two sources."""
    for source in ("algebra", "geometry"):
        lines = [raw_row(question=f"{source} {number // 2}?") for number in range(6)]
        write_lines(tmp_path / "train" / f"{source}.jsonl", lines)
    return tmp_path / "train"


@pytest.fixture
def make(tmp_path, annotations, tiny_checkpoint):
    """Makes data modules on the annotations."""

    def make_module(**options):
        values = {
            "train_annotations": [str(annotations)],
            "image_root": str(tmp_path),
            "cache_dir": str(tmp_path / "cache"),
            "model_name_or_path": str(tiny_checkpoint),
            "batch_size": 4,
            "eval_batch_size": 3,
        }
        return VisualPRM400KDataModule(**values | options)

    return make_module


def test_training_batches(make):
    module = make()
    module.prepare_data()
    module.setup("fit")
    batches = list(module.train_dataloader())
    assert [len(batch.sample_ids) for batch in batches] == [4, 4, 4]
    assert len({name for batch in batches for name in batch.sample_ids}) == 12
    assert {source for batch in batches for source in batch.sources} == {"algebra", "geometry"}
    assert batches[0].mc.tolist() == [[0.75, 1.0]] * 4
    assert module.validation_names == []
    assert module.val_dataloader() == []


def test_every_dataloader_of_evaluation(make, evaluation):
    module = make(validation_fraction=0.34, **evaluation)
    module.setup("validate")
    assert module.validation_names == ["process", "VisualProcessBench", "MathVision"]
    process, bench, benchmark = (list(loader) for loader in module.val_dataloader())
    assert [len(batch.sample_ids) for batch in process] == [3, 1]
    assert type(process[0]) is StepBatch
    assert isinstance(bench[0], ProcessBenchBatch)
    assert bench[0].correctness.tolist() == [[1, -1]]
    assert isinstance(benchmark[0], CandidateBatch)
    assert [len(batch.groups) for batch in benchmark] == [2, 1]
    assert len(module.test_dataloader()) == 3


def test_the_split_keeps_questions_together(make):
    module = make(validation_fraction=0.34)
    module.setup("fit")
    train = {name for batch in module.train_dataloader() for name in batch.sample_ids}
    (loader,) = module.val_dataloader()
    validation = {name for batch in loader for name in batch.sample_ids}
    assert len(train) == 8
    assert len(validation) == 4
    assert not train & validation


def test_the_old_name_of_the_validation_fraction(make, caplog):
    module = make(validation_share=0.34)
    assert module.hparams["validation_fraction"] == module.supervision.validation_fraction == 0.34
    assert "validation_share" not in module.hparams
    assert "VisualPRM400KDataModule: validation_share has a new name; write validation_fraction" in caplog.text
    with pytest.raises(ValueError, match="has both validation_fraction and validation_share, its old name"):
        make(validation_share=0.34, validation_fraction=0.2)
    with pytest.raises(TypeError, match="validation_part"):
        make(validation_part=0.34)


def test_a_model_connects(make, evaluation, tiny_processor):
    module = make(validation_fraction=0.34, model_name_or_path=None, **evaluation)
    module.setup("fit")
    with pytest.raises(RuntimeError, match="no model has connected"):
        module.train_dataloader()
    encoder = ConversationEncoder(tiny_processor, "Judge.", ("+", "-"))
    module.connect(RewardModelFacts(encoder, max_steps=12, response_as_one_step=True))
    batch = next(iter(module.train_dataloader()))
    assert batch.mc.tolist() == [[1.0]] * 4
    assert "Judge." in tiny_processor.tokenizer.decode(batch.inputs["input_ids"][0])
    # Step labels cannot be compared with the judgement of a whole response.
    assert module.validation_names == ["process", "MathVision"]
    group = next(iter(module.val_dataloader()[1])).groups[0]
    assert [len(positions) for positions in group.encoded.step_positions] == [1, 1]


def test_a_model_that_disagrees(make, tiny_processor):
    encoder = ConversationEncoder(tiny_processor, "", ("+", "-"))
    make(max_steps=5, response_as_one_step=False).connect(RewardModelFacts(encoder, 5, False))
    with pytest.raises(ValueError, match="data module has max_steps=5, but the model was made for 12"):
        make(max_steps=5).connect(RewardModelFacts(encoder, 12, False))
    with pytest.raises(ValueError, match="data module has response_as_one_step=False, but the model was made for True"):
        make(response_as_one_step=False).connect(RewardModelFacts(encoder, 12, True))


def test_max_samples_per_source(make):
    module = make(max_samples_per_source=2)
    module.setup("fit")
    assert [len(batch.sample_ids) for batch in module.train_dataloader()] == [4]


def test_special_tokens_are_found_before_a_run(make, annotations, write_lines, raw_row, caplog):
    write_lines(annotations / "forged.jsonl", [raw_row(question="Why?<|end|>")])
    module = make(on_bad_row="error")
    module.setup("fit")
    with pytest.raises(ValueError, match=r"forged.jsonl:1: field 'question' holds '<\|end\|>'"):
        module.train_dataloader()
    module = make()  # bad rows are skipped by default
    module.setup("fit")
    assert len([name for batch in module.train_dataloader() for name in batch.sample_ids]) == 12
    assert "train rows: 1 of 13 rows are left out (forged: 1)" in caplog.text


def test_bad_rows_stop_the_set_up_where_asked(make, annotations, write_lines, raw_row, caplog):
    write_lines(annotations / "bad.jsonl", [raw_row(), "{"])
    with pytest.raises(ValueError, match=r"bad.jsonl:2: not valid JSON"):
        make(on_bad_row="error").setup("fit")
    module = make()
    module.setup("fit")
    assert module.supervision.rows_of_sources["bad"] == 1
    assert "rows are left out (bad: 1); the first: " in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 1.0}, r"validation_fraction must be in \[0, 1\), got 1.0"),
        ({"validation_fraction": 0.1, "validation_annotations": ["a"]}, "excludes validation_annotations"),
        ({"validation_fraction": 0.1, "train_annotations": None}, "takes from train_annotations"),
        ({"benchmarks": "a"}, "go together; one of them is missing"),
        ({"rollouts": "a"}, "go together; one of them is missing"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"packed_tokens": -1}, "packed_tokens must be at least 1, got -1"),
        ({"candidates_per_question": 0}, "candidates_per_question must be at least 1, got 0"),
    ],
)
def test_bad_arguments(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_no_training_annotations(make):
    module = make(train_annotations=None)
    module.setup("fit")
    with pytest.raises(ValueError, match="needs train_annotations to fit"):
        module.train_dataloader()


class Recorder(LightningModule):
    """Learns one number from the order of its samples, so that a wrong order gives another number."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, tuple(batch.sample_ids)))
        target = sum((index + 1) * hash_of(name) for index, name in enumerate(batch.sample_ids))
        return (self.weight - target) ** 2

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        # Asking for the number of steps makes Lightning build the training loader before it restores its progress.
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def hash_of(name):
    return sum(map(ord, name)) % 101 / 101


class Crash(Callback):
    """Ends the process, as far as the run can tell, after so many batches."""

    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batches:
            raise InterruptedError("killed")


def fit(folder, module, callbacks, resume_from=None, **options):
    model = Recorder()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        enable_checkpointing=bool(callbacks),
        **options,
    )
    trainer.fit(model, module, ckpt_path=resume_from, weights_only=True)
    return model


def crashes(batches, usual):
    """Numbers of workers and of batches before a crash; `make test` takes the usual pairs."""
    pairs = itertools.product((0, 1), batches)
    return [pytest.param(*pair, marks=[] if pair in usual else [pytest.mark.thorough]) for pair in pairs]


@pytest.mark.parametrize(("num_workers", "crash_after"), crashes((2, 3, 4, 5, 8), {(1, 2), (0, 3), (1, 4)}))
def test_a_resumed_run_equals_an_uninterrupted_one(make, tmp_path, num_workers, crash_after):
    """Three batches an epoch: crashes inside of the first, second and third epoch and at the end of one."""
    options = {"num_workers": num_workers, "validation_fraction": 0.0}
    whole = fit(tmp_path, make(num_workers=0), [])
    keep = ModelCheckpoint(tmp_path / "kept", save_last=True, every_n_train_steps=1, save_top_k=0)
    with pytest.raises(InterruptedError):
        fit(tmp_path, make(**options), [keep, Crash(crash_after)])
    resumed = fit(tmp_path, make(**options), [], tmp_path / "kept" / "last.ckpt")
    assert resumed.seen == whole.seen[crash_after:]
    assert len(whole.seen) == 9
    assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.parametrize(("num_workers", "crash_after"), crashes((1, 2, 3, 4, 6), {(0, 1), (0, 3), (1, 6)}))
def test_resuming_from_a_checkpoint_of_a_validation(make, tmp_path, num_workers, crash_after):
    """Four batches an epoch, a validation and a checkpoint after every second one."""
    options = {"batch_size": 2, "validation_fraction": 0.34}
    whole = fit(tmp_path, make(**options), [], val_check_interval=2)
    assert len(whole.seen) == 12
    keep = ModelCheckpoint(tmp_path / "kept", save_last=True, save_top_k=-1)
    with pytest.raises(InterruptedError):
        fit(tmp_path, make(**options), [keep, Crash(crash_after)], val_check_interval=2)
    last = tmp_path / "kept" / "last.ckpt"
    assert last.exists() == (crash_after >= 2)
    if crash_after >= 2:
        resumed = fit(tmp_path, make(num_workers=num_workers, **options), [], last, val_check_interval=2)
        assert resumed.seen == whole.seen[crash_after // 2 * 2 :]
        assert torch.equal(resumed.weight, whole.weight)


def test_resuming_inside_of_an_epoch_needs_the_same_order(make, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", save_last=True, every_n_train_steps=1, save_top_k=0)
    with pytest.raises(InterruptedError):
        fit(tmp_path, make(), [keep, Crash(2)])
    with pytest.raises(
        ValueError, match=r"the checkpoint stands inside of an epoch of .*'batch_size': 4.*'batch_size': 2"
    ):
        fit(tmp_path, make(batch_size=2), [], tmp_path / "kept" / "last.ckpt")


@pytest.fixture
def uneven(annotations, write_lines, raw_row):
    """Eight more rows, of one to eight steps."""
    for number in range(1, 9):
        steps = [{"step": f"So {step}", "score": 0.5} for step in range(number)]
        write_lines(annotations / f"uneven{number}.jsonl", [raw_row(steps_with_score=steps, response=None)])


def longest_conversation(make):
    module = make(group_by_length=True, batch_size=1)
    module.setup("fit")
    return max(int(batch.lengths) for batch in module.train_dataloader())


def test_packed_batches(make, uneven):
    longest = longest_conversation(make)
    module = make(packed_tokens=2 * longest, num_workers=2)
    module.setup("fit")
    loader = module.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader)
    names = [name for batch in batches for name in batch.sample_ids]
    assert sorted(names) == sorted(module.supervision.tables["train"]["sample_id"][:])
    assert all(batch.inputs["input_ids"].shape == (1, batch.boundaries[-1]) for batch in batches)
    assert all(len(batch.inputs["pixel_values"]) == len(batch.sample_ids) for batch in batches)
    assert max(batch.boundaries[-1] for batch in batches) <= 2 * longest
    assert sum(batch.boundaries[-1] for batch in batches) > 0.8 * 2 * longest * len(batches)
    # Workers live on: a second epoch has other batches.
    loader.sampler.set_epoch(1)
    again = list(loader)
    assert len(again) == len(batches)
    assert {tuple(batch.sample_ids) for batch in again} != {tuple(batch.sample_ids) for batch in batches}


def test_conversations_that_are_too_long(make, uneven, caplog):
    longest = longest_conversation(make)
    module = make(packed_tokens=longest - 1)
    module.setup("fit")
    message = rf"uneven8.jsonl:1: the conversation has {longest} tokens.*on_long_conversation"
    with pytest.raises(ValueError, match=message):
        module.train_dataloader()
    module = make(packed_tokens=longest - 1, on_long_conversation="skip")
    module.setup("fit")
    names = [name for batch in module.train_dataloader() for name in batch.sample_ids]
    assert len(names) == len(set(names)) == 19
    assert "train rows: 1 of 20 rows are left out (uneven8: 1)" in caplog.text
    module = make(packed_tokens=1, on_long_conversation="skip")
    module.setup("fit")
    with pytest.raises(ValueError, match="no train rows are left"):
        module.train_dataloader()


@pytest.mark.parametrize("epoch", [pytest.param(0, marks=pytest.mark.thorough), 1])
@pytest.mark.parametrize(
    ("num_workers", "layout"),
    [pytest.param(0, "packed", marks=pytest.mark.thorough), (1, "packed"), (0, "grouped")],
)
def test_resuming_inside_of_an_epoch_of_another_layout(make, uneven, tmp_path, num_workers, layout, epoch):
    packed = {"packed_tokens": 2 * longest_conversation(make)}
    options = {"num_workers": num_workers, **(packed if layout == "packed" else {"group_by_length": True})}
    whole = fit(tmp_path, make(**options), [])
    per_epoch = len(whole.seen) // 3
    assert per_epoch >= 3
    assert len({ids for _, _, ids in whole.seen}) > per_epoch
    crash_after = per_epoch + 1 if epoch else 2
    keep = ModelCheckpoint(tmp_path / "kept", save_last=True, every_n_train_steps=1, save_top_k=0)
    with pytest.raises(InterruptedError):
        fit(tmp_path, make(**options), [keep, Crash(crash_after)])
    last = tmp_path / "kept" / "last.ckpt"
    resumed = fit(tmp_path, make(**options), [], last)
    assert resumed.seen == whole.seen[crash_after:]
    assert torch.equal(resumed.weight, whole.weight)
    with pytest.raises(ValueError, match="the checkpoint stands inside of an epoch of"):
        fit(tmp_path, make(num_workers=num_workers), [], last)


class Evaluated(Recorder):
    test_step = Recorder.validation_step


def evaluate(folder, command, module):
    """Run `validate` or `test` in Lightning; returns the names of the dataloaders."""
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False)
    getattr(trainer, command)(Evaluated(), module, verbose=False)
    return module.validation_names


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation_asks_for_no_training_rows(make, tmp_path, evaluation, annotations, command):
    """A configuration of training also serves to evaluate where the training rows are not at hand."""
    options = {"train_annotations": [str(tmp_path / "elsewhere")], "validation_annotations": [str(annotations)]}
    names = evaluate(tmp_path, command, make(**options, **evaluation))
    assert names == ["process", "VisualProcessBench", "MathVision"]
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        fit(tmp_path, make(**options), [])


def test_questions_held_out_of_training_rows(make, tmp_path, evaluation, caplog):
    """`validate` evaluates on them as `fit` does; `test` only if asked to, since it would have to read all rows."""
    options = {"validation_fraction": 0.34, **evaluation}
    others = ["VisualProcessBench", "MathVision"]
    away = {**options, "train_annotations": [str(tmp_path / "elsewhere")]}
    assert evaluate(tmp_path, "test", make(**away)) == others
    assert "test: the process validation split (validation_fraction=0.34) is left out" in caplog.text
    assert evaluate(tmp_path, "test", make(**options, test_held_out=True)) == ["process", *others]
    module = make(**options)
    assert evaluate(tmp_path, "validate", module) == ["process", *others]
    # Also where another command has read them before.
    assert evaluate(tmp_path, "test", module) == others
    for command, more in (("validate", {}), ("test", {"test_held_out": True})):
        with pytest.raises(FileNotFoundError, match=r"elsewhere.*set validation_fraction to 0 to evaluate without it"):
            evaluate(tmp_path, command, make(**away, **more))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        fit(tmp_path, make(**away), [])
    assert evaluate(tmp_path, "validate", make(**{**away, "validation_fraction": 0.0})) == others


@pytest.mark.parametrize(
    ("fact", "rule", "said"),
    [
        ("needs_all_continuations", {"num_mc_stopping": "first_success"}, "stopping: first_success"),
        # A binary search says less, so it counts where both are there.
        ("needs_measured_scores", {"num_mc_stopping": "first_success", "num_mc_search": "binary"}, "search: binary"),
    ],
)
def test_stopped_rows_are_refused_where_their_scores_are_targets(
    make, annotations, write_lines, raw_row, tiny_processor, fact, rule, said
):
    write_lines(annotations / "stopped.jsonl", [raw_row(), raw_row(**rule)])
    encoder = ConversationEncoder(tiny_processor, "Judge.", ("+", "-"))
    for reason in (None, "the score itself is learned"):
        module = make()
        module.setup("fit")
        module.connect(RewardModelFacts(encoder, 12, False, **{fact: reason}))
        if reason is None:
            module.train_dataloader()
            continue
        with pytest.raises(ValueError, match=rf"stopped\.jsonl:2: 1 train rows .* {said}.*: the score itself"):
            module.train_dataloader()
