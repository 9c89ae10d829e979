"""A run of the reporting callbacks over two benchmarks and judged solutions.

A response is written as its step scores, and the module reads them from there, so that every result can be worked out
by hand.
"""

import random

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.batching.candidate_batch import CandidateBatch, CandidateGroup
from datamodules.batching.collate import StepBatch, pad_rows
from datamodules.benchmarks.table import encode_image, write_table
from datamodules.best_of_n import read_best_of_n_datasets
from datamodules.conversation.candidates import EncodedCandidates
from datamodules.process_bench.solutions import JudgedSolution, ProcessBenchBatch
from datamodules.rollouts.records import Rollout, write_rollouts
from lightning_modules.callbacks.best_of_n import BestOfN
from lightning_modules.callbacks.case_studies import CaseStudies
from lightning_modules.callbacks.hyperparameters import Hyperparameters
from lightning_modules.callbacks.process_bench import ProcessBench
from lightning_modules.protocol import Protocol
from lightning_modules.scoring.scored_batch import ScoredBatch

CANDIDATES = 4
SOURCES = ("MMMU", "DynaMath")


def write_world(folder):
    """Seven questions of LogicVista and two seeds of DynaMath in ten variants, four candidates each."""
    image = encode_image(Image.new("RGB", (4, 4), "white"))
    rows = {
        "LogicVista": [
            {"index": str(i), "image": image, "question": f"Which? (A) x (B) y {i}", "answer": "A", "skill": "spatial"}
            for i in range(7)
        ],
        "DynaMath": [
            {
                "index": str(10 * seed + variant),
                "image": image,
                "question": f"How much? {seed} {variant}",
                "answer": "2.0",
                "answer_type": "float",
                "subject": "algebra",
                "knowledge_level": "1",
                "qid": str(seed),
                "varid": str(variant),
            }
            for variant in range(1, 11)
            for seed in range(2)
        ],
    }
    rng = random.Random(0)
    rollouts = []
    for name, questions in rows.items():
        write_table(folder / f"{name}.tsv", questions)
        for question in questions:
            for index in range(CANDIDATES):
                # DynaMath is easy, or else no seed would ever be right in all variants.
                is_right = rng.random() < (0.4 if name == "LogicVista" else 0.8)
                steps = [
                    round(rng.uniform(0.3, 1) if is_right else rng.uniform(0, 0.7), 3) for _ in range(1 + index % 3)
                ]
                wrong = rng.choice(["B", "7", None])
                rollouts.append(
                    Rollout(
                        benchmark=name,
                        question_id=question["index"],
                        sample_index=index,
                        response="\n\n".join(map(str, steps)),
                        extracted_answer=question["answer"] if is_right else wrong,
                        is_correct=is_right,
                        policy="random",
                        temperature=1.0,
                        top_p=1.0,
                        max_new_tokens=8,
                        seed=0,
                    )
                )
    write_rollouts(folder / "rollouts.jsonl", rollouts)
    return rollouts


def judged_solutions():
    """Five solutions, so that two processes get one of them twice."""
    rng = random.Random(0)
    return [
        JudgedSolution(
            sample_id=f"test.jsonl:{number + 1}",
            question="Why?",
            images=(),
            steps=tuple(str(round(rng.random(), 3)) for _ in range(1 + number)),
            correctness=tuple(rng.choice([1, 1, -1, 0]) for _ in range(1 + number)),
            data_source=SOURCES[number % 2],
            policy_model="random",
        )
        for number in range(5)
    ]


def process_rows():
    """Nine rows of process supervision, (scores, Monte Carlo scores) each; one step has none."""
    rng = random.Random(1)
    rows = []
    for number in range(9):
        mc = [rng.choice([0.0, 0.25, 1.0]) for _ in range(1 + number % 4)]
        rows.append(([round(0.3 * rng.random() + (0.5 if value else 0.3), 3) for value in mc], mc))
    rows[3][1][1] = float("nan")
    return [(f"process.jsonl:{number + 1}", *row) for number, row in enumerate(rows)]


def collate_process(rows):
    scores = pad_rows([row[1] for row in rows], float("nan"), torch.float32)
    positions = torch.where(scores.isnan(), -1, torch.arange(scores.shape[1]))
    return StepBatch(
        {"input_ids": torch.zeros(len(rows), 3, dtype=torch.long), "scores": scores},
        positions,
        mc=pad_rows([row[2] for row in rows], float("nan"), torch.float32),
        num_mc_correct=torch.full_like(positions, -1),
        num_mc_total=torch.full_like(positions, -1),
        sample_ids=[row[0] for row in rows],
        sources=["process"] * len(rows),
    )


def collate_candidates(items):
    groups = []
    for item in items:
        responses = [rollout.response for rollout in item.rollouts]
        counts = [len(response.split("\n\n")) for response in responses]
        encoded = EncodedCandidates(
            {"input_ids": torch.zeros(1, 2, dtype=torch.long)},
            [torch.zeros(count, dtype=torch.long) for count in counts],
            [torch.arange(count) for count in counts],
        )
        question = item.question
        groups.append(
            CandidateGroup(
                benchmark=question.benchmark,
                question_id=question.question_id,
                question=question.question,
                responses=responses,
                is_correct=[rollout.is_correct for rollout in item.rollouts],
                answer_classes=list(item.answer_classes),
                encoded=encoded,
            )
        )
    return CandidateBatch(groups)


def collate_judged(solutions):
    scores = pad_rows([[float(step) for step in solution.steps] for solution in solutions], float("nan"), torch.float32)
    positions = torch.where(scores.isnan(), -1, torch.arange(scores.shape[1]))
    return ProcessBenchBatch(
        {"input_ids": torch.zeros(len(solutions), 3, dtype=torch.long), "scores": scores},
        positions,
        mc=torch.full(positions.shape, float("nan")),
        num_mc_correct=torch.full_like(positions, -1),
        num_mc_total=torch.full_like(positions, -1),
        sample_ids=[solution.sample_id for solution in solutions],
        sources=[solution.data_source for solution in solutions],
        correctness=pad_rows([solution.correctness for solution in solutions], -2, torch.long),
    )


class Reader(LightningModule):
    """Scores what it is told, to the power of a parameter that training moves from 1 to 2."""

    def __init__(self):
        super().__init__()
        self.protocol = Protocol()
        self.power = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        return -self.power

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if isinstance(batch, CandidateBatch):
            return ScoredBatch(
                [
                    [
                        torch.tensor([float(step) for step in response.split("\n\n")]) ** self.power.item()
                        for response in group.responses
                    ]
                    for group in batch.groups
                ]
            )
        return ScoredBatch.of_conversations(batch.inputs["scores"] ** self.power, batch.step_positions)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.25)


def evaluation_loaders(folder, candidates=CANDIDATES):
    # Responses are scores here and hold no answers, so the verdicts are those of the file.
    datasets = read_best_of_n_datasets(folder, folder / "rollouts.jsonl", num_candidates=candidates, rules="file")
    return [
        DataLoader(judged_solutions(), batch_size=2, collate_fn=collate_judged),
        *(DataLoader(dataset, batch_size=3, collate_fn=collate_candidates) for dataset in datasets.values()),
        DataLoader(process_rows(), batch_size=2, collate_fn=collate_process),
    ]


def make_trainer(folder, devices=1, **options):
    best_of_n = {"ns": (1, 2, 4), "bootstrap": 50} | options.pop("best_of_n", {})
    defaults = {
        "max_epochs": 2,
        "num_sanity_val_steps": 2,
        "strategy": "ddp" if devices > 1 else "auto",
        "logger": TensorBoardLogger(folder, name="", version="run"),
        "callbacks": [
            BestOfN(**best_of_n),
            ProcessBench("validation"),
            ProcessBench("oracle"),
            CaseStudies(),
            Hyperparameters(),
            ModelCheckpoint(monitor="best_of_n/overall", mode="max", filename="best", dirpath=folder / "checkpoints"),
        ],
    }
    return Trainer(
        accelerator="cpu",
        devices=devices,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **defaults | options,
    )


def main(folder, devices):
    trainer = make_trainer(folder, devices)
    loaders = evaluation_loaders(folder)
    module = Reader()
    trainer.fit(module, DataLoader(torch.zeros(4, 1), batch_size=2 // devices), loaders)
    trainer.test(module, loaders)
