"""What tests/distributed/test_sharding.py runs in two processes: models under FSDP2, beside the same in one process.

Every scenario compares with a model that was loaded as always, and writes what it found for the test to judge.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from PIL import Image
from torch.distributed.tensor import DTensor

from lightning_modules.fully_sharded import FullyShardedStrategy
from lightning_modules.model.meta_loading import structure_only
from lightning_modules.model.sharding import ShardingOptions, is_sharded
from lightning_modules.process_reward import ProcessRewardModel

QUESTION = "How many digits are larger than 4?"
RESPONSES = ["The digits are 3, 7 and 9.\n\nSo the answer is 2.", "So 3 + 4 = 7.", "The digits are 3.\n\nSo 7.\n\nYes."]


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
    named = [
        dict(m.named_parameters(remove_duplicate=False)) | dict(m.named_buffers()) for m in (module, plain)
    ]
    different = sorted(named[0].keys() ^ named[1].keys())
    for name in sorted(named[0].keys() & named[1].keys()):
        mine, other = named[0][name].detach(), named[1][name].detach()
        whole = mine.full_tensor() if isinstance(mine, DTensor) else mine
        same_flags = named[0][name].requires_grad == named[1][name].requires_grad
        if not (same_flags and whole.dtype == other.dtype and torch.equal(whole, other)):
            different.append(name)
    return different


def families(folder):
    """Every family: the same weights, the same scores, and half of them on each rank."""
    found = {}
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    for path in sorted((folder / "families").iterdir()):
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
        found[path.name] = entry
    return found


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    for name in names:
        result = globals()[name](folder)
        if dist.get_rank() == 0:
            (folder / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
