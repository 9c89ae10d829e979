"""Ctrl-C while a command imports what it needs, which takes ten seconds and more, ends it in one line.

Later it is :mod:`lightning_modules.configuration.mistakes` that catches it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

from lightning_modules.configuration.mistakes import is_debugging

_MODULE = "-m"
"""What the name of a program is as long as ``python -m`` looks for it, which imports its package."""


def is_a_command() -> bool:
    """Whether this process has begun as one of our commands, so that it is no program that imports ours."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    return name == _MODULE or name.startswith("visualprm")


def stop_in_one_line() -> None:
    """Show no traceback of a Ctrl-C that nobody catches. Call it before anything that is slow to import."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _without_traceback_of_ctrl_c


def _without_traceback_of_ctrl_c(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) and not is_debugging():
        sys.stderr.write("stopped (Ctrl-C)\n")
    else:
        sys.__excepthook__(kind, error, trace)
