"""The seven benchmarks of VisualPRM, one module each; a module with a :class:`Benchmark` in it is found by itself."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Grade

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkQuestion", "Grade"]


def _find_benchmarks() -> dict[str, type[Benchmark]]:
    found: dict[str, type[Benchmark]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            is_own = member.__module__ == module.__name__
            if is_own and issubclass(member, Benchmark) and not inspect.isabstract(member):
                if member.name in found:
                    raise TypeError(f"two benchmarks are named {member.name!r}: {found[member.name]} and {member}")
                found[member.name] = member
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


BENCHMARKS: dict[str, type[Benchmark]] = _find_benchmarks()
"""Name to benchmark, in the order of the paper's tables."""
