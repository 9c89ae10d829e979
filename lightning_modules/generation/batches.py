"""Answers the requests of a source batch by batch, for engines that know whole batches only."""

from __future__ import annotations

from lightning_modules.generation.engine import GenerationEngine, GenerationRequest, RequestSource
from lightning_modules.generation.sampling import SamplingParameters


def serve_in_batches(
    engine: GenerationEngine, source: RequestSource, parameters: SamplingParameters, samples_at_once: int
) -> None:
    """An implementation of :meth:`lightning_modules.generation.engine.GenerationEngine.serve` by its ``sample``.

    A batch waits for its longest text. All ranks must not be needed by the engine.

    Args:
        engine: What samples.
        source: Where the requests come from.
        parameters: For requests that have none of their own.
        samples_at_once: Most texts of a batch, at least 1.
    """
    while requests := source.take(samples_at_once):
        alike: dict[tuple[SamplingParameters, int], list[GenerationRequest]] = {}
        for request in requests:
            alike.setdefault((request.parameters or parameters, len(request.sample_keys)), []).append(request)
        for (own, _), batch in alike.items():
            for request, texts in zip(batch, engine.sample(batch, own), strict=True):
                source.receive(request, texts)
