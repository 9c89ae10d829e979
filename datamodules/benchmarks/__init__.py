"""The benchmarks, one module each; a module with a :class:`Benchmark` in it is found by itself."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from datamodules.benchmarks.base import Benchmark, BenchmarkOptions, BenchmarkQuestion, Grade, Rules

__all__ = [
    "BENCHMARKS",
    "VISUAL_BENCHMARKS",
    "Benchmark",
    "BenchmarkOptions",
    "BenchmarkQuestion",
    "Grade",
    "Rules",
    "benchmarks_in",
    "make_benchmark",
    "require_benchmarks",
]

logger = logging.getLogger(__name__)


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
"""Name to benchmark, in the order of the paper's tables, text-only ones last."""

VISUAL_BENCHMARKS: tuple[str, ...] = tuple(name for name, kind in BENCHMARKS.items() if not kind.is_text_only)
"""Names of the benchmarks with pictures, whose mean is the paper's overall number."""


def require_benchmarks(**arguments: Iterable[str] | None) -> None:
    """Refuse names of benchmarks that there are not, even where no benchmark is read; None is not given.

    Raises:
        ValueError: That names the argument, the first such name, and those that are known.
    """
    for argument, names in arguments.items():
        for unknown in [name for name in names or () if name not in BENCHMARKS]:
            raise ValueError(f"{argument}: unknown benchmark {unknown!r}; known are {', '.join(BENCHMARKS)}")


def make_benchmark(
    name: str, rules: Rules = "ours", options: Mapping[str, BenchmarkOptions] | None = None
) -> Benchmark:
    """A benchmark as the arguments of a data module describe it.

    Args:
        name: In :data:`BENCHMARKS`.
        rules: By which responses are graded.
        options: Name to how that benchmark is read; those of other benchmarks are only checked.

    Raises:
        ValueError: If a name or a split is unknown.
    """
    for unknown in [key for key in (name, *(options or ())) if key not in BENCHMARKS]:
        raise ValueError(f"unknown benchmark {unknown!r}; known are {', '.join(BENCHMARKS)}")
    chosen = (options or {}).get(name) or BenchmarkOptions()
    return BENCHMARKS[name](rules=rules, **vars(chosen))


def benchmarks_in(folder: Path, options: Mapping[str, BenchmarkOptions] | None = None) -> list[str]:
    """Names of the benchmarks that a folder holds; says which ones it does not hold.

    Raises:
        FileNotFoundError: If it holds none.
    """
    names = [name for name in BENCHMARKS if make_benchmark(name, options=options).is_in(folder)]
    if not names:
        raise FileNotFoundError(f"{folder} holds none of the benchmarks {', '.join(BENCHMARKS)}")
    absent = [name for name in BENCHMARKS if name not in names]
    if absent:
        level = logging.WARNING if set(absent) & set(VISUAL_BENCHMARKS) else logging.INFO
        logger.log(level, "%s holds %s; not there: %s", folder, ", ".join(names), ", ".join(absent))
    return names
