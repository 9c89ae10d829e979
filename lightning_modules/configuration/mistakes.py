"""A user's mistake ends a command in a few lines: what is wrong, where it stands, what to do.

A wrong path, a setting out of range, a file that cannot be read, a full disk and too little memory are such mistakes.
An error that nobody has foreseen keeps its traceback. What is which is decided by type and origin of the exception, see
:func:`is_mistake`. With ``VISUALPRM_DEBUG=1`` every error shows its traceback.

This module imports nothing that is slow: the commands import it before anything else.
"""

from __future__ import annotations

import argparse
import errno
import opcode
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from lightning_modules.configuration.first_report import has_several_processes, is_first_to_report
from lightning_modules.configuration.out_of_memory import is_out_of_memory, what_is_short

DEBUG = "VISUALPRM_DEBUG"
"""The environment variable that shows tracebacks."""

TRACEBACK_NOTE = "traceback: "
"""How the note of an exception begins that names the file with its traceback."""

PLACE_NOTE = "failed in this process: "
"""How the note of an exception begins that names rank and batch; only a run of several processes shows it."""

MAX_LINES = 6
"""Most lines of a report."""

_MAX_WIDTH = 600
_WRAPPED = re.compile(r"Union subtypes|^Problem with given class_path ")
_PACKAGES = tuple(
    str(Path(__file__).parents[2] / name) + os.sep for name in ("lightning_modules", "datamodules", "tools")
)
_DELIBERATE = (ValueError, TypeError, RuntimeError, FloatingPointError, ImportError)
# They tell of another process that is gone, not of anything that the user has given.
_OF_PROCESSES = (ConnectionError, ChildProcessError, ProcessLookupError, TimeoutError)
_IN_A_WORKER = re.compile(
    r"Caught \w+ in DataLoader worker process.*\n  File \"(?P<file>[^\"]+)\", line \d+, in \S+\n\s*raise .*?"
    r"\n(?P<name>[\w.]+Error): (?P<message>.*)",
    re.DOTALL,
)


def is_debugging() -> bool:
    """Whether tracebacks are to be shown."""
    return os.environ.get(DEBUG, "") not in ("", "0")


def is_mistake(error: BaseException) -> bool:
    """Whether an error is about what the user has given or about the machine, so that its message is all that helps.

    That is so for

    - errors of the operating system (a missing file, no permission, a full disk), but not of connections;
    - too little memory, of a GPU or of the machine;
    - errors of type ``ValueError``, ``TypeError``, ``RuntimeError``, ``FloatingPointError``, ``ImportError`` or a
      subclass that a ``raise`` of this project has raised, also in a worker of a dataloader;
    - what Lightning raises about arguments: ``MisconfigurationException``, and by a ``raise`` an error of these types.
    """
    if isinstance(error, OSError):
        return not isinstance(error, _OF_PROCESSES)
    if is_out_of_memory(error) or _is_misconfiguration(error):
        return True
    if not isinstance(error, _DELIBERATE):
        return False
    file = _raising_file(error.__traceback__)
    is_of_lightning = os.sep + os.path.join("lightning", "") in file
    return file.startswith(_PACKAGES) or is_of_lightning or _of_worker(error) is not None


def report(program: str, error: BaseException) -> str:
    """The lines about a mistake: its message, then the notes of the exception, the last of which says where more is.

    Args:
        program: Name of the command, which the first line begins with.
        error: A mistake, see :func:`is_mistake`.

    Returns:
        At most :data:`MAX_LINES` lines, with a newline at the end.
    """
    message = [line.rstrip() for line in describe(error).splitlines() if line.strip()]
    notes = [f"  {note}" for note in _notes(error)]
    room = max(1, MAX_LINES - len(notes))
    if len(message) > room:
        message = [*message[: room - 1], message[-1]] if room > 1 else [" ".join(message)]
    return "".join(
        f"{shortened(line)}\n" for line in [f"{program}: error: {message[0]}", *message[1:], *notes][:MAX_LINES]
    )


def describe(error: BaseException) -> str:
    """What a mistake is about, in one sentence or a few."""
    if is_out_of_memory(error):
        return what_is_short(error)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_the_system(error)
    text = _of_worker(error) or str(error) or type(error).__name__
    return text + "".join(f"; {link}" for link in _broken_links(text) if "is a link to" not in text)


def _broken_links(text: str) -> list[str]:
    """What is to be said about paths in a message that are links to nothing."""
    words = dict.fromkeys(re.findall(r"[^\s'\",;:]*[^\s'\",;:.]", text))
    paths = [Path(word) for word in words if "/" in word and len(word) < _MAX_WIDTH]
    links = [path for path in paths if _is_broken_link(path)]
    return [f"{path} is a link to {os.readlink(path)}, which is not there" for path in links]


def _is_broken_link(path: Path) -> bool:
    # Unlike the methods of `Path`, these take names that are too long for any file.
    return os.path.islink(path) and not os.path.exists(path)


def _of_the_system(error: OSError) -> str:
    place = error.filename2 or error.filename
    reason = error.strerror or os.strerror(error.errno or 0)
    if error.errno == errno.ENOSPC:
        advice = "; make room there or give another folder"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "; change its permissions, or give a path that this user may use"
    else:
        advice = ""
    if place is None:
        return f"{reason}{advice}"
    path = Path(os.fsdecode(place)) if isinstance(place, str | bytes) else None
    if path is None:
        return f"{place}: {reason}{advice}"
    link = next((each for each in (path, *path.parents) if _is_broken_link(each)), None)
    if error.errno in (errno.ENOENT, errno.EEXIST) and link is not None:
        return f"{path}: {link} is a link to {os.readlink(link)}, which is not there"
    above = next((each for each in (path, *path.parents) if os.path.exists(each)), None)
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and above is not None and not above.is_dir():
        return f"{path}: {'is' if above == path else f'{above} is'} a file, no folder"
    return f"{path}: {reason}{advice}"


def _notes(error: BaseException) -> list[str]:
    notes = [" ".join(note.split()) for note in getattr(error, "__notes__", [])]
    if not has_several_processes():
        notes = [note for note in notes if not note.startswith(PLACE_NOTE)]
    return [f"{note} (here with {DEBUG}=1)" if note.startswith(TRACEBACK_NOTE) else note for note in notes]


def shortened(line: str) -> str:
    """A line of a message, cut where it gets too long to read."""
    return line if len(line) <= _MAX_WIDTH else f"{line[: _MAX_WIDTH - 4]} ..."


def _is_misconfiguration(error: BaseException) -> bool:
    found = sys.modules.get("lightning.fabric.utilities.exceptions")
    return found is not None and isinstance(error, found.MisconfigurationException)


def _raising_file(trace: TracebackType | None) -> str:
    """The file of the innermost frame if that stands at a ``raise``, or an empty text."""
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return code.co_filename if opcode.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS" else ""


def _of_worker(error: BaseException) -> str | None:
    """The message of an error that we have raised in a worker; only a text is left of its traceback."""
    found = _IN_A_WORKER.search(str(error))
    return found["message"].strip() if found and found["file"].startswith(_PACKAGES) else None


def cause_in_constructor(error: BaseException) -> BaseException:
    """The error of a constructor, which `jsonargparse` wraps in one about each type that the argument may have."""
    while isinstance(error, ValueError) and _WRAPPED.search(str(error)) and error.__cause__ is not None:
        error = error.__cause__
    return error


def ended(program: str, error: BaseException, status: int = 1, also: tuple[type[Exception], ...] = ()) -> int:
    """Write the lines about a mistake, or about Ctrl-C, to stderr.

    In a run of several processes the first one of a machine does so. The others write nothing if their failure is in a
    log, else one line.

    Args:
        program: Name of the command.
        error: That ends it.
        status: Exit status of a mistake.
        also: Errors that are mistakes whoever raises them.

    Returns:
        The exit status: that of a mistake, or 130 for Ctrl-C, as in a shell.

    Raises:
        BaseException: The error itself, if it is no mistake or :data:`DEBUG` is set.
    """
    if isinstance(error, BrokenPipeError):
        # Who reads the output, such as `head`, has enough; Python must not write the rest of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status
    is_stopped = isinstance(error, KeyboardInterrupt)
    is_logged = any(note.startswith(TRACEBACK_NOTE) for note in getattr(error, "__notes__", []))
    is_first = is_first_to_report()
    is_one_line = is_stopped or isinstance(error, also) or is_mistake(error)
    if is_debugging() or not (is_one_line or (is_logged and not is_first)):
        raise error
    sys.stdout.flush()
    if is_first:
        sys.stderr.write(f"{program}: stopped (Ctrl-C)\n" if is_stopped else report(program, error))
    elif not (is_logged or is_stopped):
        sys.stderr.write(report(program, error).partition("\n")[0] + "\n")
    return 130 if is_stopped else status


@contextmanager
def mistakes_reported(program: str) -> Iterator[None]:
    """Within, a mistake and Ctrl-C end the process with a few lines on stderr, see :func:`ended`.

    Raises:
        SystemExit: In place of a mistake.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - what is no mistake is raised again
        sys.exit(ended(program, error))


def tool(program: str, status: int = 2) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Let the main function of a tool return a status for a mistake and for Ctrl-C, after a few lines on stderr.

    A tool reads what its user gives and little else, so that every ``ValueError`` counts as a mistake.

    Args:
        program: Name of the tool.
        status: Exit status of a mistake.
    """

    def decorate(main: Callable[..., int]) -> Callable[..., int]:
        @wraps(main)
        def reporting(*arguments: Any, **options: Any) -> int:
            try:
                return main(*arguments, **options)
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - what is no mistake is raised again
                return ended(program, error, status, also=(ValueError,))

        return reporting

    return decorate


class ToolParser(argparse.ArgumentParser):
    """The parser of a tool's command line: its errors are one line, and options are written out."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def shown(values: Sequence[str]) -> str:
    """Names for a message, in quotes."""
    return ", ".join(f"`{value}`" for value in values)
