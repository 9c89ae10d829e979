"""The network: backbone, families, adapters, quantization, step head, packed forward, floating-point operations.

Here: whatever changes or reads a model's structure. Not here: sharding it (:mod:`lightning_modules.distributed`),
scoring candidates (:mod:`lightning_modules.scoring`), sampling text (:mod:`lightning_modules.generation`).
"""
