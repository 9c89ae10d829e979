"""GRPO with a process reward model: TRL's trainer, and the response scores of a reward model as rewards.

python experiments/reinforcement_learning/grpo.py --policy POLICY --reward_model MODEL --prompts FILE --output FOLDER

The reward model is loaded beside the policy. With --base_urls servers score in its place. Needs the extra `rl`:
pip install 'visualprm[rl]'.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, Sequence
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import GRPOConfig, GRPOTrainer

from datamodules.conversation.messages import question_content
from datamodules.storage.fields import image_names, text
from datamodules.storage.files import read_jsonl
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.process_reward import RewardModelServer
from lightning_modules.reinforcement_learning.reward_function import reward_function


def read_prompts(path: Path, limit: int | None = None) -> Dataset:
    """MMPR prompt rows (``image``, ``question``) as TRL takes them: ``prompt`` with typed parts, and ``images``."""
    rows: list[dict[str, Any]] = []
    for line, row in read_jsonl(path):
        if limit is not None and len(rows) == limit:
            break
        where = f"{path}:{line}"
        names = image_names(row, where)
        content = question_content(text(row, "question", where), len(names))
        rows.append(
            {
                "prompt": [{"role": "user", "content": content}],
                "images": [str(path.parent / name) for name in names],
            }
        )
    return Dataset.from_list(rows).cast_column("images", Sequence(Image()))


@tool("grpo")
def main(arguments: list[str] | None = None) -> int:
    """Train the policy."""
    parser = ToolParser(prog="grpo", description="Train a policy with the response scores of a process reward model.")
    parser.add_argument("--policy", type=Path, required=True, help="policy checkpoint")
    parser.add_argument("--reward_model", required=True, help="exported reward model; with servers for its processor")
    parser.add_argument("--base_urls", nargs="+", help="servers that hold the reward model, http://host:8000/v1")
    parser.add_argument("--aggregation", default="mean", help="from step scores to the reward: mean, min or last")
    parser.add_argument("--prompts", type=Path, required=True, help="MMPR prompt rows, JSONL")
    parser.add_argument("--limit", type=int, help="read at most so many prompts")
    parser.add_argument("--output", required=True, help="folder of the trained policy")
    parser.add_argument("--max_steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--num_generations", type=int, default=8, help="solutions of each prompt")
    parser.add_argument("--max_new_tokens", type=int, default=96, help="most tokens of a solution")
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    options = parser.parse_args(arguments)

    rewards = reward_function(
        options.reward_model,
        aggregation=options.aggregation,
        server=RewardModelServer(options.base_urls) if options.base_urls else None,
    )
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(options.policy),
        processing_class=AutoProcessor.from_pretrained(options.policy, padding_side="left"),
        reward_funcs=rewards,
        train_dataset=read_prompts(options.prompts, options.limit),
        args=GRPOConfig(
            output_dir=options.output,
            max_steps=options.max_steps,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=options.num_generations,
            num_generations=options.num_generations,
            max_completion_length=options.max_new_tokens,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            bf16=False,
        ),
    )
    trainer.train()
    trainer.save_model(options.output)
    trainer.save_state()
    trainer.processing_class.save_pretrained(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
