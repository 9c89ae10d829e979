"""Training memory of a language-model head: the whole vocabulary at all tokens, or a step head.

The figure is the peak of allocations in forward, loss and backward: logits, intermediate tensors of the loss, gradients
of the logits and of the head's weights. Weights, incoming hidden states and their gradient, which the layers below need
from either head, are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, linear
from torch.profiler import ProfilerActivity, profile
from transformers import PretrainedConfig

from lightning_modules.model.step_head import StepHead

VOCABULARY_8B = 92_553
NUM_CLASSES = 2


def peak_bytes(device: str, run: Callable[[], object]) -> int:
    """Most bytes that a call allocates, beside what is there before; on a CPU by the events of torch's allocator."""
    if device == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    now = peak = 0
    for _, change in events:
        now += change
        peak = max(peak, now)
    return peak


@dataclass(frozen=True)
class HeadMemory:
    """Peak bytes of the head of the whole vocabulary, and of the step head.

    Attributes:
        full: Bytes of the whole vocabulary's head.
        steps: Bytes of the step head.
    """

    full: int
    steps: int

    @property
    def ratio(self) -> float:
        """``full`` / ``steps``."""
        return self.full / self.steps

    def __str__(self) -> str:
        return f"{self.full / 2**20:,.1f} and {self.steps / 2**20:.3f} MiB, a ratio of {self.ratio:,.0f}"


def measured(
    tokens: int,
    hidden: int,
    vocabulary: int,
    num_steps: int,
    device: str,
    dtype: torch.dtype,
    *,
    with_states: bool = False,
) -> HeadMemory:
    """Measure one forward and backward of both heads on a row of so many tokens with so many steps.

    Args:
        tokens: Tokens of the row.
        hidden: Width of the hidden states.
        vocabulary: Rows of the whole head.
        num_steps: Steps in the row.
        device: ``cpu`` or ``cuda``.
        dtype: Dtype of states and weights.
        with_states: Count the gradient of the hidden states, too.
    """
    with torch.device(device):
        states = torch.randn(1, tokens, hidden, dtype=dtype, requires_grad=with_states)
        weight = torch.randn(vocabulary, hidden, dtype=dtype, requires_grad=True)
        head = StepHead.__new__(StepHead)
        torch.nn.Module.__init__(head)
        head.weight = torch.nn.Parameter(torch.randn(NUM_CLASSES, hidden, dtype=dtype))
        head.text_config = PretrainedConfig()
        head.register_parameter("bias", None)
        positions = torch.linspace(0, tokens - 1, num_steps).long()[None]
        labels = torch.zeros(1, num_steps, dtype=torch.long)
        targets = torch.full((tokens,), -100)
    targets[positions[0]] = 1

    def full() -> None:
        logits = linear(states, weight).float()
        cross_entropy(logits.flatten(0, 1), targets, reduction="sum").backward()

    def steps() -> None:
        cross_entropy(head(states, positions).mT, labels, reduction="sum").backward()

    return HeadMemory(peak_bytes(device, full), peak_bytes(device, steps))


def by_formula(tokens: int, hidden: int, vocabulary: int, num_steps: int, bytes_of_number: int) -> HeadMemory:
    """Expected result of :func:`measured`.

    Whole vocabulary: float32 logits are stored; the loss adds log-probabilities and, in the backward, two gradients of
    that size at a time; then the gradient of the logits in their own dtype, and that of the weights. Step head: hidden
    states of the steps, their logits, and the gradient of the class rows.
    """
    table = tokens * vocabulary
    in_loss = 4 * table * 4
    after_loss = table * 4 + table * bytes_of_number + vocabulary * hidden * bytes_of_number
    return HeadMemory(
        full=max(in_loss, after_loss),
        steps=(num_steps + NUM_CLASSES) * hidden * bytes_of_number + 4 * num_steps * NUM_CLASSES * 4,
    )
