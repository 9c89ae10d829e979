"""Runs of `visualprm fit` that are killed and go on, of one process and of two.

What they have trained on is written to logs, which tests/distributed/test_resume_scenarios.py reads.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import fork_server
from distributed_ranks import KILLED, free_port, variables_of
from lightning.pytorch import Callback
from PIL import Image
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from tools.make_tiny_model import make_tiny_model

ROWS, EPOCHS, KILLS = 16, 2, 10
STEPS_OF_EPOCH = 4
TIME_LIMIT = 300
TEXTS = [
    "How many digits are larger than 4 ?",
    "The digits are 3 , 7 and 9 .",
    "So the answer is \\boxed{2} .",
    "+ - =",
]
SHARDED = "experiments/strategies/fsdp2.yaml"
REPOSITORY = Path(__file__).parents[1]


class StepLog(Callback):
    """Writes a line for every training batch of this rank, with the loss of the whole step where it ends there; and the
    weights at the end.

    Args:
        folder: Lines are added to what is there.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer, pl_module) -> None:
        if name := os.environ.get("KILLED_IN_SAVING"):
            sys.addaudithook(killed_before_the_name(name))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.begin = [trainer.global_step, trainer.current_epoch]
        if trainer.global_step == int(os.environ.get("KILLED_IN_STEP", -1)) and batch_idx % 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        is_step = not trainer.fit_loop._should_accumulate()
        loss = trainer.callback_metrics["train/loss"].item() if is_step else None
        line = json.dumps([*self.begin, batch.sample_ids, loss]) + "\n"
        with (self.folder / f"batches_{os.environ['RUN']}_{trainer.global_rank}.jsonl").open("a") as file:
            file.write(line)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if trainer.global_step == int(os.environ.get("KILLED_IN_VALIDATION", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        if "SLURM_NTASKS" in os.environ and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    def on_validation_end(self, trainer, pl_module) -> None:
        # Sent to all at the same time: rank 0 waits for rank 1 then, and its handler runs when that is over.
        if "SLURM_NTASKS" in os.environ and trainer.global_rank == 0:
            os.kill(os.getpid(), signal.SIGUSR1)
        if trainer.is_global_zero:
            with (self.folder / "validations.jsonl").open("a") as file:
                metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
                file.write(json.dumps([trainer.global_step, trainer.current_epoch, metrics]) + "\n")

    def on_train_end(self, trainer, pl_module) -> None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(pl_module, options=options)
        if trainer.is_global_zero:
            save_file(
                {name: value.clone().contiguous() for name, value in weights.items()}, self.folder / "end.safetensors"
            )


def killed_before_the_name(name: str) -> Callable[[str, tuple], None]:
    """An audit hook that kills this process when a checkpoint has been written, but before it gets its name."""

    def watch(event: str, values: tuple) -> None:
        if event == "os.rename" and str(values[1]).endswith(name):
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


def write_world(folder: Path) -> None:
    """A tiny model, and rows with two labelled steps each, so that means over batches are means over labels."""
    size = {"vision_hidden_size": 16, "vision_layers": 1, "text_hidden_size": 32, "text_layers": 1, "heads": 2}
    make_tiny_model(folder / "base", iter(TEXTS), **size)
    Image.effect_noise((32, 32), 50).convert("RGB").save(folder / "a.png")
    draw = random.Random(0)
    for name, count in (("train", ROWS), ("validation", 6)):
        with (folder / f"{name}.jsonl").open("w") as file:
            for number in range(count):
                texts = [f"The digits are {draw.randint(1, 9)}" + " , 7" * draw.randint(0, 4) for _ in range(2)]
                steps = [{"step": text, "score": float(draw.random() > 0.4)} for text in texts]
                row = {
                    "image": "a.png",
                    "question": f"How many digits are larger than {number} ?",
                    "steps_with_score": steps,
                }
                file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Run:
    """How `visualprm fit` is run, always with four rows an optimizer step."""

    processes: int = 1
    strategy: str = "auto"
    kind: str = "full"
    layout: str = "padded"
    more: tuple[str, ...] = ()


def arguments(world: Path, folder: Path, how: Run) -> list[str]:
    """Of `visualprm fit`."""
    processes, strategy, kind, layout = how.processes, how.strategy, how.kind, how.layout
    lora = ["--model.backbone.lora.rank=4", "--model.backbone.lora.dropout=0.2"] if kind == "lora" else []
    packed = ["--data.packed_tokens=200"] if layout == "packed" else []
    return [
        "fit",
        "--model=lightning_modules.process_reward.ProcessRewardModel",
        f"--model.model_name_or_path={world / 'base'}",
        "--model.system_prompt=",
        "--model.learning_rate=3e-3",
        *lora,
        "--data=datamodules.visual_prm_400k.VisualPRM400KDataModule",
        f"--data.train_annotations={world / 'train.jsonl'}",
        f"--data.validation_annotations={world / 'validation.jsonl'}",
        f"--data.batch_size={2 if processes == 1 else 1}",
        f"--data.cache_dir={world / 'cache'}",
        *packed,
        "--trainer.accelerator=cpu",
        f"--trainer.devices={processes}",
        *([f"--config={REPOSITORY / strategy}"] if strategy == SHARDED else [f"--trainer.strategy={strategy}"]),
        "--trainer.accumulate_grad_batches=2",
        f"--trainer.max_epochs={EPOCHS}",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.use_distributed_sampler=false",
        "--trainer.inference_mode=false",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.callbacks+=lightning_modules.callbacks.run_checkpoints.RunCheckpoints",
        f"--trainer.callbacks.folder={folder / 'checkpoints'}",
        "--trainer.callbacks.every_n_steps=2",
        "--trainer.callbacks.monitor=validation/loss",
        "--trainer.callbacks.mode=min",
        "--trainer.callbacks+=resume_scenarios.StepLog",
        f"--trainer.callbacks.folder={folder}",
        f"--trainer.default_root_dir={folder}",
        *how.more,
    ]


def start(world: Path, folder: Path, how: Run, **environment: str) -> list[BaseProcess]:
    """Start the processes of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    number, port = len(list(folder.glob("log_*_0.txt"))), free_port()
    found = []
    for rank in range(how.processes):
        variables = {"RUN": str(number), **environment}
        if how.processes > 1:
            variables |= variables_of(rank, how.processes, port)
            if "SLURM_NTASKS" in environment:
                variables |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}
            else:
                variables["TORCHELASTIC_RUN_ID"] = "scenario"
        log = folder / f"log_{number}_{rank}.txt"
        found.append(fork_server.start("lightning_modules.cli:run", [arguments(world, folder, how)], log, variables))
    return found


def outputs(folder: Path) -> str:
    """What all processes of the last run have printed, at the end of an error's message."""
    number = len(list(folder.glob("log_*_0.txt"))) - 1
    logs = sorted(folder.glob(f"log_{number}_*.txt"))
    return "\n".join(f"---- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in logs)


def ended(folder: Path, processes: list[BaseProcess], *, killed: bool = False) -> bool:
    """Whether all have ended; raises an error if one has ended otherwise than it should."""
    codes = [process.exitcode for process in processes]
    if any(code not in (None, KILLED if killed else 0) for code in codes):
        kill(processes)
        raise RuntimeError(f"{folder}: processes ended with {codes}\n{outputs(folder)}")
    return None not in codes


def wait(folder: Path, processes: list[BaseProcess], *, killed: bool = False) -> None:
    """Until all have ended well (or were killed)."""
    deadline = time.monotonic() + TIME_LIMIT
    while not ended(folder, processes, killed=killed):
        if time.monotonic() > deadline:
            kill(processes)
            raise RuntimeError(f"{folder}: has not ended in {TIME_LIMIT} s\n{outputs(folder)}")
        time.sleep(0.02)


def kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        fork_server.kill(process)


def kill_when(folder: Path, processes: list[BaseProcess], is_time: Callable[[], bool]) -> bool:
    """Kill all when it is time; returns False if they have ended before."""
    deadline = time.monotonic() + TIME_LIMIT
    while not is_time():
        if ended(folder, processes):
            return False
        if time.monotonic() > deadline:
            kill(processes)
            raise RuntimeError(f"{folder}: it was not time to kill for {TIME_LIMIT} s\n{outputs(folder)}")
        time.sleep(0.002)
    kill(processes)
    return True


def batches_done(folder: Path) -> int:
    """Batches that the first rank has logged in the last of its runs."""
    logs = sorted(folder.glob("batches_*_0.jsonl"), key=lambda path: int(path.name.split("_")[1]))
    return logs[-1].read_bytes().count(b"\n") if logs else 0


def saving(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".saving-*"))


def state_of(folder: Path) -> dict[str, Any]:
    """What a killed run has left: what is there, and where `latest` points to."""
    checkpoints = folder / "checkpoints"
    names = sorted(path.name for path in checkpoints.iterdir()) if checkpoints.is_dir() else []
    latest = checkpoints / "latest"
    return {"names": names, "latest": os.readlink(latest) if latest.is_symlink() else None}


def whole(world: Path, folder: Path, how: Run) -> None:
    """A run that nobody disturbs."""
    wait(folder, start(world, folder, how))


KILLED_ON_ONE_PROCESS = (
    {"KILLED_IN_STEP": "3"},
    {"KILLED_IN_VALIDATION": str(STEPS_OF_EPOCH)},
    {"KILLED_IN_SAVING": f"step_{STEPS_OF_EPOCH + 2:08d}"},
)
"""Inside of an optimizer step, in the evaluation of an epoch, and while a checkpoint of the next one is written."""


def killed_on_one_process(world: Path, folder: Path, how: Run) -> None:
    """Each of the moments above, one after the other; then to the end."""
    states = []
    for moment in KILLED_ON_ONE_PROCESS:
        wait(folder, start(world, folder, how, **moment), killed=True)
        states.append({"happened": True, "saving": "KILLED_IN_SAVING" in moment} | state_of(folder))
    wait(folder, start(world, folder, how))
    (folder / "states.json").write_text(json.dumps(states))


def killed_again_and_again(world: Path, folder: Path, how: Run) -> None:
    """Kills at random moments, every second one while a checkpoint is written; then to the end."""
    draw = random.Random(5)
    states = []
    for number in range(KILLS):
        run_number = len(list(folder.glob("log_*_0.txt")))
        processes = start(world, folder, how)
        due, first = [float("inf")], draw.randint(1, 6)
        pause = draw.uniform(0, 0.02) if number % 2 else draw.uniform(0, 0.05)

        def is_time(
            log=folder / f"batches_{run_number}_0.jsonl", first=first, pause=pause, due=due, at_saving=bool(number % 2)
        ) -> bool:
            has_begun = log.exists() and batches_done(folder) >= first
            if due[0] == float("inf") and has_begun and (saving(folder) or not at_saving):
                due[0] = time.monotonic() + pause
            return time.monotonic() >= due[0]

        happened = kill_when(folder, processes, is_time)
        states.append({"happened": happened, "saving": bool(number % 2)} | state_of(folder))
    wait(folder, start(world, folder, how))
    (folder / "states.json").write_text(json.dumps(states))


IN_THE_FIRST_EPOCH, IN_THE_SECOND_EPOCH = ((steps + 2) * 2 + 1 for steps in (0, STEPS_OF_EPOCH))
"""Batches, so many that it is inside of an optimizer step."""


def moved(
    world: Path, folder: Path, before: Run, after: Run, batches: int = IN_THE_SECOND_EPOCH, **environment: str
) -> None:
    """A run that is killed and goes on in another way."""
    processes = start(world, folder, before)
    if not kill_when(folder, processes, lambda: batches_done(folder) >= batches):
        raise RuntimeError(f"{folder}: ended before it was killed")
    (folder / "states.json").write_text(json.dumps([state_of(folder)]))
    wait(folder, start(world, folder, after, **environment))


def killed_in_validation(world: Path, folder: Path, how: Run, step: int) -> None:
    """A run that is killed in the first batch of an evaluation, and goes on."""
    wait(folder, start(world, folder, how, KILLED_IN_VALIDATION=str(step)), killed=True)
    (folder / "states.json").write_text(json.dumps([state_of(folder)]))
    wait(folder, start(world, folder, how))


SLURM = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "visualprm"}


def moved_to_slurm(world: Path, folder: Path, before: Run, after: Run) -> None:
    """After the first epoch the second run gets a SIGUSR1 of SLURM, which refuses to requeue: there is no scontrol."""
    moved(world, folder, before, after, IN_THE_FIRST_EPOCH, PATH=str(folder), **SLURM)


def killed_and_told_to_end(world: Path, folder: Path, before: Run, after: Run) -> None:
    """Killed in the first epoch; in the second one SIGTERM comes to rank 1 alone, at whatever it does then.

    The first two runs are of the same processes, the last one is run in another way.
    """
    processes = start(world, folder, before)
    if not kill_when(folder, processes, lambda: batches_done(folder) >= IN_THE_FIRST_EPOCH):
        raise RuntimeError(f"{folder}: ended before it was killed")
    states = [state_of(folder)]
    processes = start(world, folder, before)
    deadline = time.monotonic() + TIME_LIMIT
    while (
        not is_in_the_second_epoch(folder / "batches_1_0.jsonl")
        and not ended(folder, processes)
        and time.monotonic() < deadline
    ):
        time.sleep(0.002)
    processes[1].terminate()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    kill(processes)
    statuses = [process.exitcode for process in processes]
    states.append(state_of(folder) | {"statuses": statuses, "outputs": outputs(folder)})
    (folder / "states.json").write_text(json.dumps(states))
    wait(folder, start(world, folder, after))


def is_in_the_second_epoch(log: Path) -> bool:
    """Whether a batch of it is in the log of a rank, whose last line may be half written."""
    return log.exists() and any(json.loads(line)[1] for line in log.read_text().split("\n")[:-1])


ONE, DDP, SHARDED_2 = Run(), Run(2, "ddp"), Run(2, SHARDED)
# Dropout would differ with the number of processes.
ADAPTERS = ("--model.backbone.lora.rank=4", "--model.backbone.lora.dropout=0")
ONE_ADAPTERS, SHARDED_ADAPTERS = replace(ONE, more=ADAPTERS), replace(SHARDED_2, more=ADAPTERS)
# Two packed batches a step, as one process takes them.
PACKED_DDP = replace(DDP, layout="packed", more=("--trainer.accumulate_grad_batches=1",))
UNALIGNED = Run(more=("--trainer.val_check_interval=5",))
Scenarios = dict[str, tuple[Callable[..., None], tuple[Any, ...]]]
SCENARIOS: Scenarios = {
    "one_lora": (whole, (replace(ONE, kind="lora"),)),
    "killed_lora": (killed_on_one_process, (replace(ONE, kind="lora"),)),
    "one": (whole, (ONE,)),
    "one_to_sharded": (moved_to_slurm, (ONE, SHARDED_2)),
    "sharded_lora": (whole, (SHARDED_ADAPTERS,)),
    "killed_sharded_lora": (killed_and_told_to_end, (SHARDED_ADAPTERS, ONE_ADAPTERS)),
}
THOROUGH: Scenarios = {
    "often_killed_lora": (killed_again_and_again, (replace(ONE, kind="lora"),)),
    "lora_ddp_to_sharded": (moved, (replace(DDP, kind="lora"), replace(SHARDED_2, kind="lora"))),
    "packed": (whole, (replace(ONE, layout="packed"),)),
    "packed_one_to_ddp": (moved, (replace(ONE, layout="packed"), PACKED_DDP)),
    "killed_in_unaligned_validation": (killed_in_validation, (UNALIGNED, 2)),
}


def run_all(folder: Path, scenarios: Scenarios) -> Path:
    """Run scenarios, each in a folder of its own, in a folder that :func:`write_world` has filled."""
    timings = {}
    for name, (action, options) in scenarios.items():
        began = time.monotonic()
        action(folder, folder / name, *options)
        timings[name] = round(time.monotonic() - began, 1)
    (folder / f"timings-{len(scenarios)}.json").write_text(json.dumps(timings))
    return folder
