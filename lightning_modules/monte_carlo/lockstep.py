"""Answers the requests of a source with sharded weights, where every forward needs all ranks."""

from __future__ import annotations

import torch

from lightning_modules.generation.engine import GenerationEngine, GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.monte_carlo.window import AnnotationWindow
from lightning_modules.scoring.memory import most_on_any_rank


def serve_in_step(
    engine: GenerationEngine,
    window: AnnotationWindow,
    parameters: SamplingParameters,
    samples_at_once: int,
    device: torch.device,
) -> None:
    """Answer the requests of a window; all ranks must call it together, each with a window of its own.

    Args:
        engine: What samples.
        window: Where the requests come from.
        parameters: For ranks that have no request left while others have; with the limit of new tokens of all.
        samples_at_once: Most texts of a batch.
        device: Of this rank.
    """
    idle = GenerationRequest(window.batch.messages[0], window.batch.images[0], [window.batch.prompts[0].prompt_id])
    while True:
        alike: dict[tuple[SamplingParameters, int], list[GenerationRequest]] = {}
        for request in window.take(samples_at_once):
            alike.setdefault((request.parameters or parameters, len(request.sample_keys)), []).append(request)
        rounds = most_on_any_rank(len(alike), device)
        if not rounds:
            return
        for (own, _), batch in alike.items():
            for request, texts in zip(batch, engine.sample(batch, own), strict=True):
                window.receive(request, texts)
        for _ in range(rounds - len(alike)):
            engine.sample([idle], parameters)
