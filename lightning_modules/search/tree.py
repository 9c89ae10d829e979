"""The tree of a search: a node is a step behind those of its ancestors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datamodules.conversation.steps import STEP_SEPARATOR
from lightning_modules.generation.engine import FinishReason


@dataclass(eq=False)
class Node:
    """A step, and with it the beginning of a solution.

    Attributes:
        number: From 0, in the order of their making.
        parent: None for the root, which stands for a solution of which nothing is written.
        step: Text of the step; that of the root is empty, and that of a solution which ends behind a blank line.
        ended: How the solution ended with this step; None if it goes on.
        tokens: Sampled tokens of this step, once.
        samples: How many samples of the parent's expansion were this step.
        group: Of the beams, those that this one competes with.
        value: What the search compares; None until it is scored, and for the root.
        step_scores: The reward model's scores of the steps up to here, merged as its protocol merges them.
        is_kept: Whether the search went on from here, or held it as a finished solution.
    """

    number: int
    parent: Node | None
    step: str
    ended: FinishReason | None = None
    tokens: int = 0
    samples: int = 1
    group: int = 0
    value: float | None = None
    step_scores: list[float] = field(default_factory=list)
    is_kept: bool = False

    @property
    def path(self) -> list[Node]:
        """The nodes from the one behind the root to this one."""
        before = [] if self.parent is None else self.parent.path
        return before if self.parent is None else [*before, self]

    @property
    def depth(self) -> int:
        """Number of steps; 0 for the root."""
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def text(self) -> str:
        """The steps up to here with blank lines between."""
        return STEP_SEPARATOR.join(node.step for node in self.path if node.step)

    @property
    def path_tokens(self) -> int:
        """Sampled tokens of the steps up to here."""
        return sum(node.tokens for node in self.path)

    @property
    def order(self) -> tuple[float, int]:
        """Sorts nodes: the best value first, of equals the earlier one."""
        return -(self.value or 0.0), self.number


class SearchTree:
    """All nodes of the search for one question.

    Attributes:
        nodes: In the order of their numbers; the first is the root.
        sampled_tokens: All that were sampled, those of equal and of dropped steps and of lookahead included.
        lookahead_tokens: Those of them that only looked ahead.
        samples: Number of sampled steps.
        dropped: Those of them that were empty, or that the reward model cannot read.
    """

    def __init__(self) -> None:
        self.root = Node(0, None, "")
        self.nodes = [self.root]
        self.sampled_tokens = self.lookahead_tokens = self.samples = self.dropped = 0

    def add(self, parent: Node, step: str, ended: FinishReason | None, tokens: int, group: int) -> Node:
        """Add a step, or count it once more where the parent has it already."""
        for node in self.nodes:
            if node.parent is parent and node.step == step and (node.ended is None) == (ended is None):
                node.samples += 1
                return node
        self.nodes.append(Node(len(self.nodes), parent, step, ended, tokens, group=group))
        return self.nodes[-1]

    @property
    def finished(self) -> list[Node]:
        """Ends of solutions."""
        return [node for node in self.nodes if node.ended is not None]

    def record(self) -> dict[str, Any]:
        """The tree as plain values, for a row of predictions."""
        return {
            "sampled_tokens": self.sampled_tokens,
            "lookahead_tokens": self.lookahead_tokens,
            "samples": self.samples,
            "dropped": self.dropped,
            "nodes": [
                {
                    "parent": None if node.parent is None else node.parent.number,
                    "step": node.step,
                    "ended": node.ended,
                    "tokens": node.tokens,
                    "samples": node.samples,
                    "value": node.value,
                    "score": node.step_scores[-1] if node.step_scores else None,
                    "is_kept": node.is_kept,
                }
                for node in self.nodes
            ],
        }
