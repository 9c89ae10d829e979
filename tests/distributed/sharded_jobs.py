"""What tests/distributed/test_sharding.py runs in two processes: models under FSDP2, beside the same in one process.

Every scenario compares with a model that was loaded as always, and writes what it found for the test to judge.
"""

import faulthandler
import gc
import json
import os
import threading
from pathlib import Path

import tiny_families
import torch
import torch.distributed as dist
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image
from torch.distributed.tensor import DTensor

from datamodules.conversation.candidates import encode_candidates
from datamodules.visual_prm_400k import VisualPRM400KDataModule
from lightning_modules.callbacks.save_pretrained import SavePretrained
from lightning_modules.cli import run
from lightning_modules.distributed.fully_sharded import FullyShardedStrategy
from lightning_modules.distributed.meta_loading import structure_only
from lightning_modules.distributed.sharding import ShardingOptions, gather_all, is_sharded, let_go
from lightning_modules.model.prompt_batch import continue_prompt
from lightning_modules.model.step_head import vocabulary_logits
from lightning_modules.policy import Policy
from lightning_modules.process_reward import ProcessRewardModel

REPOSITORY = Path(__file__).parents[2]
STRATEGIES = REPOSITORY / "experiments" / "strategies"
QUESTION = "How many digits are larger than 4?"
RESPONSES = ["The digits are 3, 7 and 9.\n\nSo the answer is 2.", "So 3 + 4 = 7.", "The digits are 3.\n\nSo 7.\n\nYes."]


def rank():
    return int(os.environ["RANK"])


def sharded(make, precision="32-true", **options):
    """A module of a Trainer with the strategy, its weights loaded by `configure_model` as a run does it."""
    trainer = Trainer(
        accelerator="cpu",
        devices=dist.get_world_size() if dist.is_initialized() else 2,
        strategy=FullyShardedStrategy(ShardingOptions(**options)),
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with structure_only():
        module = make()
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.strategy.setup_environment()
    module.configure_model()
    assert is_sharded(module)
    return module


def differences(module, plain):
    """Names of weights and buffers that are not the same to the last bit, and those that one has alone."""
    named = [dict(m.named_parameters(remove_duplicate=False)) | dict(m.named_buffers()) for m in (module, plain)]
    different = sorted(named[0].keys() ^ named[1].keys())
    for name in sorted(named[0].keys() & named[1].keys()):
        mine, other = named[0][name].detach(), named[1][name].detach()
        whole = mine.full_tensor() if isinstance(mine, DTensor) else mine
        same_flags = named[0][name].requires_grad == named[1][name].requires_grad
        if not (same_flags and whole.dtype == other.dtype and torch.equal(whole, other)):
            different.append(name)
    return different


def inputs_of(plain, picture):
    """What a model reads of a solution, with a picture or without one."""
    pictures = [] if picture is None else [picture]
    encoded = encode_candidates(plain.encoder, pictures, QUESTION, [RESPONSES[0].split("\n\n")], "here")
    return continue_prompt(encoded.prefix, encoded.suffixes[0])


def objective_of(module, inputs):
    """A number with a gradient, of a reward model or a policy."""
    states = module.backbone.base_model(**inputs, use_cache=False).last_hidden_state
    if isinstance(module, Policy):
        return vocabulary_logits(module.backbone, states).square().mean()
    return module.head(states, torch.arange(states.shape[1])[None]).square().mean()


def wrong_gradients(module, plain, inputs):
    """Names of weights whose gradient is not the mean of those of all ranks, each of which reads something else."""
    module.on_validation_start()
    objective_of(module, inputs[rank()]).backward()
    torch.stack([objective_of(plain, each) for each in inputs]).mean().backward()
    expected = dict(plain.named_parameters())
    # A gradient on one rank alone would be averaged with that of another weight.
    lists = [[name for name, parameter in module.named_parameters() if parameter.grad is not None]] * len(inputs)
    dist.all_gather_object(lists, lists[0])
    wrong = sorted(set(lists[0]) ^ set(lists[1]))
    # Where the true gradient is 0 (biases of keys), what is there is the rounding of larger ones.
    noise = 1e-6 * max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    for name, parameter in module.named_parameters():
        should = expected[name].grad if expected[name].grad is not None else torch.zeros(())
        if not wrong and parameter.grad is None and should.any():
            wrong.append(name)
        if name in lists[0] and name not in wrong:
            found = parameter.grad.full_tensor()
            if (found - should).abs().max() > 1e-4 * float(should.abs().max()) + noise:
                wrong.append(name)
    return wrong


USUAL_FAMILIES = (*tiny_families.USUAL, "internvl_tied")


def compare_families(paths):
    """For every family the same weights, scores and gradients, and half of them on each rank."""
    found = {}
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    for path in paths:
        plain = ProcessRewardModel(str(path)).eval()
        module = sharded(lambda path=path: ProcessRewardModel(str(path))).eval()
        held = sum(p.to_local().numel() for p in module.parameters())
        entry = {
            "differences": differences(module, plain),
            "share": held / sum(p.numel() for p in plain.parameters()),
        }
        pictures = picture if hasattr(plain.processor, "image_processor") else None
        scores = [m.score(pictures, QUESTION, RESPONSES).step_scores for m in (plain, module)]
        entry["scores"] = scores
        inputs = [inputs_of(plain, pictures), inputs_of(plain, None)]
        entry["wrong_gradients"] = wrong_gradients(module, plain, inputs)
        found[path.name] = entry
    return found


def other_families(folder):
    """The families that are compared in `make test-all` alone."""
    return compare_families(sorted(p for p in (folder / "families").iterdir() if p.name not in USUAL_FAMILIES))


def families(folder):
    """The usual families, a policy, and models of other kinds."""
    found = compare_families([folder / "families" / name for name in USUAL_FAMILIES])
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    path = folder / "families" / "internvl_tied"
    plain = Policy(str(path)).eval()
    module = sharded(lambda: Policy(str(path))).eval()
    reader = ProcessRewardModel(str(path))
    inputs_of_tied = [inputs_of(reader, picture), inputs_of(reader, None)]
    found["tied policy"] = {
        "differences": differences(module, plain),
        "wrong_gradients": wrong_gradients(module, plain, inputs_of_tied),
        "is_tied": module.backbone.get_output_embeddings().weight is module.backbone.get_input_embeddings().weight,
    }
    path = folder / "families" / "internvl_qwen2"
    adapters = {"lora": {"rank": 2, "include_vision": True, "train_projector": True}, "freeze": ["model.vision_tower"]}
    for name, options in (("with adapters", adapters), ("in bfloat16", {"dtype": "bfloat16"})):
        plain = ProcessRewardModel(str(path), backbone=options)
        module = sharded(lambda options=options: ProcessRewardModel(str(path), backbone=options))
        found[name] = {"differences": differences(module, plain)}
    options = {"dtype": "bfloat16", "lora": {"rank": 2, "include_vision": True, "train_projector": True}}
    module = sharded(lambda: ProcessRewardModel(str(path), backbone=options), precision="bf16-mixed")
    found["whole"] = [shards_of(module)]
    gather_all(module)
    with torch.no_grad():
        objective_of(module, inputs_of(plain, picture))
    found["whole"].append(shards_of(module))
    let_go(module, ShardingOptions())
    found["whole"].append(shards_of(module))
    return found


def shards_of(module):
    """The share of parameters that are sharded at this moment."""
    return sum(isinstance(p, DTensor) for p in module.parameters()) / sum(1 for _ in module.parameters())


def devices(folder):
    """Where a strategy puts a model whose shards are in main memory; "meta" stands for a GPU."""
    path = folder / "families" / "internvl_qwen2"
    module = sharded(lambda: ProcessRewardModel(str(path)), cpu_offload=True)
    strategy = module.trainer.strategy
    strategy.parallel_devices = [torch.device("meta")] * dist.get_world_size()
    strategy.model_to_device()
    return {
        "shards": sorted({str(parameter.to_local().device) for parameter in module.parameters()}),
        "buffers": sorted({str(buffer.device) for buffer in module.buffers()}),
        "module": str(module.device),
    }


def peak_growth(load):
    """By how many bytes the memory of this process, mapped files left out, grew at most while a model was loaded."""
    gc.collect()
    sizes, is_done = [_private_memory()], threading.Event()

    def look():
        while not is_done.wait(0.002):
            sizes.append(_private_memory())

    watch = threading.Thread(target=look)
    watch.start()
    try:
        module = load()
        sizes.append(_private_memory())
    finally:
        is_done.set()
        watch.join()
    del module
    return max(sizes) - sizes[0]


def _private_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


def memory(folder):
    """Peak memory of loading a larger checkpoint in float32: in shards (the most of any rank), whole; and its size."""
    path, options = str(folder / "large"), {"dtype": "float32"}  # of the stored dtype it would be mapped, not held
    found = [peak_growth(lambda: sharded(lambda: ProcessRewardModel(path, backbone=options)))]
    found.append(peak_growth(lambda: ProcessRewardModel(path, backbone=options)))
    gathered = [found] * dist.get_world_size()
    dist.all_gather_object(gathered, found)
    size = 2 * sum(file.stat().st_size for file in (folder / "large").glob("*.safetensors"))
    return {"sharded": max(each[0] for each in gathered), "whole": min(each[1] for each in gathered), "size": size}


SMALL_RUN = """
model:
  class_path: lightning_modules.process_reward.ProcessRewardModel
  init_args: {{model_name_or_path: {folder}/families/internvl_qwen2, learning_rate: 1.0e-3, warmup_ratio: 0}}
data:
  class_path: datamodules.visual_prm_400k.VisualPRM400KDataModule
  init_args:
    train_annotations: [{folder}/rows.jsonl]
    validation_annotations: [{folder}/rows.jsonl]
    batch_size: 1
    cache_dir: {folder}/cache
trainer:
  accelerator: cpu
  devices: 2
  max_epochs: 1
  limit_train_batches: 4
  limit_val_batches: 3
  num_sanity_val_steps: 0
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: {folder}
"""


class Watch(Callback):
    """Notes the losses of this rank, and dtypes of the first decoder layer: computed with, stepped on, gradients."""

    def __init__(self):
        self.losses, self.dtypes = [], [set(), set(), set()]

    def on_fit_start(self, trainer, pl_module):
        layer = pl_module.backbone.get_decoder().layers[0].mlp.down_proj
        layer.register_forward_hook(lambda module, *_: self.dtypes[0].add(str(module.weight.dtype)))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        layer = pl_module.backbone.get_decoder().layers[0].mlp.down_proj
        self.dtypes[1].add(str(layer.weight.dtype))
        self.dtypes[2].add(str(getattr(layer.weight.grad, "dtype", None)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def finish(trainer):
    """What a training came to, on this rank."""
    watch = next(callback for callback in trainer.callbacks if isinstance(callback, Watch))
    validation = trainer.callback_metrics["validation/loss"].item()
    return {"losses": watch.losses, "dtypes": [sorted(dtypes) for dtypes in watch.dtypes], "validation": validation}


def fit_by_command(folder, name, *arguments):
    """Train and export through the `visualprm` command with experiments/strategies/fsdp2.yaml."""
    if rank() == 0:
        (folder / "run.yaml").write_text(SMALL_RUN.format(folder=folder))
    dist.barrier()
    cli = run(
        [
            "fit",
            f"--config={folder}/run.yaml",
            f"--config={STRATEGIES}/fsdp2.yaml",
            "--trainer.callbacks+=sharded_jobs.Watch",
            "--trainer.callbacks+=lightning_modules.callbacks.save_pretrained.SavePretrained",
            f"--trainer.callbacks.folder={folder}/models/{name}",
            *arguments,
        ]
    )
    return finish(cli.trainer)


def fit(folder, name, strategy, precision="32-true", **options):
    """The same without the command, which takes seconds to read what it may be given."""
    settings = yaml.safe_load(SMALL_RUN.format(folder=folder))
    seed_everything(0)
    with structure_only():
        module = ProcessRewardModel(**settings["model"]["init_args"], **options)
    exported = SavePretrained(f"{folder}/models/{name}")
    trainer = Trainer(**settings["trainer"], strategy=strategy, precision=precision, callbacks=[Watch(), exported])
    trainer.fit(module, datamodule=VisualPRM400KDataModule(**settings["data"]["init_args"]))
    return finish(trainer)


def ddp():
    return DDPStrategy(find_unused_parameters=True)


def fsdp2(**options):
    return FullyShardedStrategy(ShardingOptions(**options))


SOME = {"freeze": ["vision"], "gradient_checkpointing": True}
LORA = {"lora": {"rank": 2, "dropout": 0.0, "include_vision": True, "train_projector": True}}


def strategies(folder):
    """The same training under every strategy: of all weights, of some, of adapters, and in mixed precision."""
    compiled = {"compile": True, "compile_backend": "eager"}
    return {
        "ddp": fit(folder, "ddp", ddp()),
        "fsdp2": fit_by_command(folder, "fsdp2", "--trainer.strategy.sharding.prefetch=1"),
        "hybrid": fit(folder, "hybrid", fsdp2(replicas=2)),
        "offload": fit(folder, "offload", fsdp2(cpu_offload=True)),
        "ddp_some": fit(folder, "ddp_some", ddp(), backbone=SOME, language_model_weight=0.5),
        "fsdp2_some": fit(
            folder,
            "fsdp2_some",
            fsdp2(reshard_after_forward=False),
            backbone=SOME | compiled,
            language_model_weight=0.5,
        ),
        "mixed": fit(folder, "mixed", fsdp2(), "bf16-mixed"),
        "mixed_lora": fit(folder, "mixed_lora", fsdp2(), "bf16-mixed", backbone=LORA | {"dtype": "bfloat16"}),
    }


def more_strategies(folder):
    """Those of `make test-all` alone: adapters, whose losses test_equivalence.py compares, too."""
    return {
        "ddp_lora": fit(folder, "ddp_lora", ddp(), backbone=LORA),
        "fsdp2_lora": fit(folder, "fsdp2_lora", fsdp2(), backbone=LORA),
    }


def quantized(folder):
    """What is said about weights that cannot be sharded."""
    path = folder / "families" / "internvl_qwen2"
    try:
        sharded(lambda: ProcessRewardModel(str(path), backbone={"quantization": "nf4", "lora": {"rank": 2}}))
    except ValueError as error:
        return str(error)
    return None


def annotation(folder):
    """Monte Carlo annotation with a sharded policy, whose ranks decode different numbers of tokens."""
    run(
        [
            "predict",
            f"--config={REPOSITORY}/experiments/quickstart/annotation.yaml",
            f"--config={STRATEGIES}/fsdp2.yaml",
            *(folder / "annotation.txt").read_text().splitlines(),
            f"--trainer.callbacks.output={folder}/annotation.jsonl",
            "--trainer.strategy.sharding.whole_to_predict=true",
            "--trainer.devices=2",
        ]
    )


def main(folder, names):
    """Run scenarios by name, one after another."""
    torch.set_num_threads(1)
    # Shortly before the test kills all, and no sooner: a process may crash over it.
    faulthandler.dump_traceback_later(890)
    dist.init_process_group("gloo")
    for name in names:
        result = globals()[name](Path(folder))
        if rank() == 0:
            (Path(folder) / f"{name}.json").write_text(json.dumps(result))
