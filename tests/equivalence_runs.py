"""Runs of real models on real files that are the same in one process and in several; functions for `run_ranks`.

Every function takes the folder of :func:`write_world`, a folder for its results, and the name of a strategy: "auto" is
a single process, "ddp" and "fsdp2" are two.
"""

import json
import os
import random
from pathlib import Path
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from PIL import Image
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from datamodules.benchmarks.table import encode_image, write_table
from datamodules.prompts_datamodule import PromptDataModule
from datamodules.rollouts.records import Rollout, write_rollouts
from datamodules.visual_prm_400k import VisualPRM400KDataModule
from lightning_modules import step_judge
from lightning_modules.annotation import MonteCarloAnnotator
from lightning_modules.callbacks.best_of_n import BestOfN
from lightning_modules.callbacks.prediction_writer import PredictionWriter
from lightning_modules.callbacks.process_bench import ProcessBench
from lightning_modules.distributed.fully_sharded import FullyShardedStrategy
from lightning_modules.distributed.gradients import clip_gradient_norm, gradient_norm
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.knockout_judge import KnockoutJudge
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.lora import LoraOptions
from lightning_modules.policy import Policy
from lightning_modules.process_reward import ProcessRewardModel, RewardModelServer
from lightning_modules.response_likelihood import ResponseLikelihood
from lightning_modules.search.options import SearchOptions
from lightning_modules.step_judge import StepJudge
from lightning_modules.step_search import SearchRewardModel, StepSearch

PICTURES = 4
STEPS = ["The digits are 3 , 7", "So 9", "So the answer is \\boxed{2} .", "How many digits are larger than 4 ?", "7"]
TRAINING_ROWS, VALIDATION_ROWS, JUDGED_ROWS, QUESTIONS, PROMPTS = 22, 7, 5, 7, 5
CANDIDATES = 3
TRAINED_STEPS = 6


def write_world(folder, checkpoint):
    """The files of all runs; ``checkpoint`` is the folder of a tiny model."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        Image.effect_noise((20 + 9 * number, 30), 60 + 20 * number).convert("RGB").save(folder / f"{number}.png")

    def some_steps(most):
        return [rng.choice(STEPS) for _ in range(rng.randint(1, most))]

    def some_pictures(number):
        # Every third row is text alone, so that one of two ranks often has no picture.
        return [f"{rng.randrange(PICTURES)}.png" for _ in range(rng.randint(1, 2))] if number % 3 else []

    def process_row(number):
        scored = [
            {"step": step, "score": count / 4, "num_mc_correct": count, "num_mc_total": 4}
            for step in some_steps(6)
            for count in [rng.choice([0, 0, 1, 3, 4])]
        ]
        return {"image": some_pictures(number), "question": f"How many {number}?", "steps_with_score": scored}

    write_lines(folder / "train.jsonl", map(process_row, range(TRAINING_ROWS)))
    write_lines(folder / "validation.jsonl", map(process_row, range(VALIDATION_ROWS)))
    write_lines(folder / "bench" / "test.jsonl", [judged_row(rng, some_steps(5), n) for n in range(JUDGED_ROWS)])
    for number in range(PICTURES):
        (folder / "bench" / f"{number}.png").write_bytes((folder / f"{number}.png").read_bytes())
    write_benchmarks(folder / "benchmarks", rng)
    prompts = [
        {"id": f"p{n}", "image": some_pictures(n), "question": f"How many {n}?", "answer": "2"} for n in range(PROMPTS)
    ]
    write_lines(folder / "prompts.jsonl", prompts)
    (folder / "checkpoint.txt").write_text(str(checkpoint))
    return folder


def judged_row(rng, steps, number):
    return {
        "image": [f"{number % PICTURES}.png"],
        "question": "Which?",
        "answer": "B",
        # A label that not all steps share, so that curves and thresholds exist.
        "response": {
            "steps": steps,
            "process_correctness": [1 if number == 0 else -1 if number == 1 else rng.choice([1, -1, 0]) for _ in steps],
        },
        "policy_model": "somebody",
        "data_source": "MMMU" if number % 2 else "WeMath",
    }


def write_benchmarks(folder, rng):
    """LogicVista's table, and rollouts of all of its questions."""
    folder.mkdir()
    picture = encode_image(Image.effect_noise((24, 24), 50))
    rows = [
        {"index": str(i), "image": picture, "question": f"Which? (A) x (B) y {i}", "answer": "A", "skill": "spatial"}
        for i in range(QUESTIONS)
    ]
    write_table(folder / "LogicVista.tsv", rows)
    rollouts = [
        Rollout(
            benchmark="LogicVista",
            question_id=row["index"],
            sample_index=index,
            response="\n\n".join([*rng.sample(STEPS, rng.randint(1, 3)), "So A"]),
            extracted_answer=rng.choice("AB"),
            is_correct=rng.random() < 0.5,
            policy="random",
            temperature=1.0,
            top_p=1.0,
            max_new_tokens=8,
            seed=0,
        )
        for row in rows
        for index in range(CANDIDATES)
    ]
    write_rollouts(folder / "rollouts.jsonl", rollouts)


def write_lines(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_trainer(folder, strategy, **options):
    # Sums depend on the number of threads.
    torch.set_num_threads(1)
    strategies = {"fsdp2": FullyShardedStrategy}
    defaults = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "inference_mode": False,
    }
    return Trainer(
        accelerator="cpu",
        devices=1 if strategy == "auto" else 2,
        strategy=strategies[strategy]() if strategy in strategies else strategy,
        default_root_dir=folder,
        **defaults | options,
    )


# ------------------------------------------------------------------- training


class Trajectory(Callback):
    """What every optimizer step of a run was: its logged losses, and the norm of its gradient before clipping."""

    def __init__(self):
        self.steps = []
        self.norm = None
        self.labels = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norm = gradient_norm(pl_module.parameters()).item()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.labels.append(int((~batch.mc.isnan()).sum()))
        if self.norm is not None:
            logged = {name: value.item() for name, value in trainer.callback_metrics.items() if "train/" in name}
            self.steps.append({**logged, "norm": self.norm, "batch": batch_idx})
            self.norm = None


LAYOUTS = {
    "padded": {"batch_size": 1},
    "packed": {"packed_tokens": 700},
}
MODELS = {
    "padded": {},
    "packed": {"language_model_weight": 0.3},
    "lora": {"backbone": BackboneOptions(lora=LoraOptions(rank=4, dropout=0.0, include_vision=True))},
}


def fit(world, folder, strategy, name, accumulate):
    """An epoch of padded batches, three of packed ones.

    The results are a trajectory, of rank zero, and the numbers of labels of all batches.
    """
    seed_everything(0, verbose=False)  # adapters begin at random
    model = ProcessRewardModel((world / "checkpoint.txt").read_text(), learning_rate=3e-3, **MODELS[name])
    data = VisualPRM400KDataModule(
        str(world / "train.jsonl"), cache_dir=str(world / "cache"), **LAYOUTS.get(name, LAYOUTS["padded"])
    )
    trajectory = Trajectory()
    trainer = make_trainer(
        folder,
        strategy,
        max_steps=TRAINED_STEPS,
        callbacks=[trajectory],
        gradient_clip_val=0.3,
        accumulate_grad_batches=accumulate,
    )
    trainer.fit(model, data)
    write_result(
        folder, f"fit-{name}-{strategy}-{trainer.global_rank}", {"steps": trajectory.steps, "labels": trajectory.labels}
    )


# ----------------------------------------------------------------- evaluation


def evaluate(world, folder, strategy, base_urls=()):
    """The metrics that are logged, and the reports; with addresses of servers that hold the model, through these."""
    server = RewardModelServer(list(base_urls)) if base_urls else None
    model = ProcessRewardModel((world / "checkpoint.txt").read_text(), server=server)
    data = VisualPRM400KDataModule(
        validation_annotations=str(world / "validation.jsonl"),
        visual_process_bench=str(world / "bench"),
        benchmarks=str(world / "benchmarks"),
        rollouts=str(world / "benchmarks" / "rollouts.jsonl"),
        rules="file",
        candidates_per_question=CANDIDATES,
        eval_batch_size=2,
        questions_per_batch=2,
        cache_dir=str(world / "cache"),
    )
    reports = folder / f"reports-{strategy}"
    callbacks = [
        BestOfN(ns=(1, 2, 3), bootstrap=50, output_dir=str(reports)),
        ProcessBench("validation", output_dir=str(reports)),
    ]
    trainer = make_trainer(folder, strategy, callbacks=callbacks)
    logged = trainer.validate(model, datamodule=data, verbose=False)
    write_result(folder, f"validate-{strategy}-{trainer.global_rank}", logged)
    trainer = make_trainer(folder, strategy, callbacks=callbacks)
    trainer.test(model, datamodule=data, verbose=False)


# ----------------------------------------------------------------- prediction


def predict(world, folder, strategy):
    """Rollouts of a policy, Monte Carlo annotation, searches led by a reward model, and critics of the rollouts."""
    checkpoint = (world / "checkpoint.txt").read_text()
    sampling = SamplingParameters(temperature=1.0, max_new_tokens=20, seed=1)
    few = SamplingParameters(temperature=0.0, max_new_tokens=2)
    rollouts = str(folder / f"rollouts-{strategy}.jsonl")
    makers = {
        "rollouts": lambda: Policy(checkpoint, num_samples=2, sampling=sampling),
        "annotation": lambda: MonteCarloAnnotator(
            checkpoint, num_solutions=2, num_continuations=2, sampling=sampling, max_batch_rows=4
        ),
        "search": lambda: StepSearch(
            checkpoint,
            SearchRewardModel(checkpoint),
            SearchOptions(width=2, expansion=2, lookahead=1, max_depth=3),
            num_candidates=2,
            sampling=sampling,
        ),
        "likelihood": lambda: ResponseLikelihood(checkpoint, rollouts, cut_at=20),
        "judge": lambda: StepJudge(checkpoint, rollouts, sampling=few, score="probability"),
        "knockout": lambda: KnockoutJudge(checkpoint, rollouts, sampling=few),
    }
    for name, make in makers.items():
        module = make()
        like_blank_lines(module)
        data = PromptDataModule(prompts=str(world / "prompts.jsonl"), batch_size=2, instruction="")
        output = folder / f"{name}-{strategy}.jsonl"
        trainer = make_trainer(folder, strategy, callbacks=[PredictionWriter(str(output))])
        # A random model writes no verdicts, so what it has written is taken for one.
        with patch.multiple(step_judge, text_before_verdict=lambda text: "", _OPTIONS=(("3",), ("7",))):
            trainer.predict(module, data, return_predictions=False)


@torch.no_grad()
def like_blank_lines(module):
    """Let a policy of random weights write several steps, and end some texts early."""
    head = module.backbone.get_output_embeddings()
    head.weight.mul_(2)
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    tokenizer = module.processor.tokenizer
    head.bias[tokenizer.convert_tokens_to_ids("Ċ")] = 7.5
    head.bias[tokenizer.eos_token_id] = 3.5


# -------------------------------------------------------------------- gradients


def clip_shards(folder):
    """Gradients in even and uneven shards, whole on every rank, over another mesh, and a plain one; clipped."""
    mesh = init_device_mesh("cpu", (2,))
    hybrid = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(shape, generator=generator) for shape in ((4, 3), (5, 2), (1, 2), (3,), (4, 2), (2, 2))]
    ways = [*[(mesh, [Shard(0)])] * 3, (mesh, [Replicate()]), (hybrid, [Replicate(), Shard(0)]), None]
    parameters = []
    for gradient, way in zip(whole, ways, strict=True):
        spread = gradient.clone() if way is None else distribute_tensor(gradient.clone(), *way)
        parameters.append(torch.nn.Parameter(torch.zeros_like(spread)))
        parameters[-1].grad = spread
    norm = clip_gradient_norm(parameters, 0.5)
    clipped = [parameter.grad for parameter in parameters]
    found = [each.full_tensor() if isinstance(each, DTensor) else each for each in clipped]
    torch.save({"norm": norm, "whole": whole, "clipped": found}, folder / f"clipped-{mesh.get_rank()}.pt")


# ------------------------------------------------------------------- all runs


def write_result(folder, name, value):
    (folder / f"{name}.json").write_text(json.dumps(value))


def run_all(world, folder, strategies, accumulate):
    """All runs with several strategies, one after the other in the same processes."""
    world, folder = Path(world), Path(folder)
    for strategy in strategies:
        for name in MODELS:
            fit(world, folder, strategy, name, accumulate)
        evaluate(world, folder, strategy)
        predict(world, folder, strategy)
    if "fsdp2" in strategies:
        clip_shards(folder)


def fit_with_a_bad_row(world, folder, strategy, on_bad_row):
    """Training on rows of which one has a picture that is whole in its header alone."""
    world, folder = Path(world), Path(folder)
    files = folder / f"rows-{os.environ['RANK']}"  # every machine has a copy
    files.mkdir()
    rows = [json.loads(line) for line in (world / "train.jsonl").read_text().splitlines()]
    for number in range(PICTURES):
        (files / f"{number}.png").write_bytes((world / f"{number}.png").read_bytes())
    whole = (world / "2.png").read_bytes()
    (files / "bad.png").write_bytes(whole[: len(whole) // 2])
    rows[2]["image"] = "bad.png"
    write_lines(files / "train.jsonl", rows)
    model = ProcessRewardModel((world / "checkpoint.txt").read_text())
    data = VisualPRM400KDataModule(
        str(files / "train.jsonl"), cache_dir=str(files / "cache"), num_workers=1, on_bad_row=on_bad_row
    )
    make_trainer(folder, strategy, max_epochs=1).fit(model, data)
