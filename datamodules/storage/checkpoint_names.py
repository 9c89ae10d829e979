"""Whether a model that a user names is there: a folder on this machine, or a name on the hub."""

from __future__ import annotations

import errno
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_OUR_FOLDERS = {"checkpoints", "downloads", "exported", "runs", "data", "models"}
"""Folders of this project's guides, which may not be made yet. No model on the hub has such an owner."""

_SECONDS_TO_ANSWER = 10.0


def is_path(name_or_path: str | Path) -> bool:
    """Whether the name of a model can only be meant as a path: the hub is never asked about it."""
    name = os.fspath(name_or_path)
    first = name.partition("/")[0]
    return Path(name).exists() or not _HUB_NAME.fullmatch(name) or first in _OUR_FOLDERS or Path(first).is_dir()


_OF_A_PROCESSOR = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def require_model(name_or_path: str | Path, *, processor_only: bool = False) -> None:
    """Make sure that there is such a model, before anything tries to load it; looks only for its configuration.

    The hub is asked once, and only for a name that is no path, see :func:`is_path`, and not in the local cache.

    Args:
        name_or_path: Folder of a checkpoint, or a name on the hub.
        processor_only: A folder may hold the files of the processor alone.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the name is empty.
    """
    if not os.fspath(name_or_path).strip():
        raise ValueError("model_name_or_path is empty; is a variable of the shell not set?")
    path = Path(name_or_path)
    if path.is_dir():
        if processor_only:
            if not any((path / name).is_file() for name in _OF_A_PROCESSOR):
                raise FileNotFoundError(f"{path}: holds none of {', '.join(_OF_A_PROCESSOR)}, so it has no processor")
            return
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path}: holds no config.json, so it is no checkpoint that transformers can load")
        return
    if path.exists():
        raise FileNotFoundError(f"{path}: is a file; the folder of a checkpoint is needed")
    name = os.fspath(name_or_path)
    if is_path(name):
        near = f"; there are {', '.join(_neighbours(path))}" if _neighbours(path) else ""
        raise FileNotFoundError(f"{path}: there is no such folder{near}; a checkpoint must be downloaded before")
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=_SECONDS_TO_ANSWER)
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{name}: neither a folder here nor a model on the hub that you may read") from error
    except (OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"{name}: no folder here, and the hub cannot be asked ({type(error).__name__}); give the folder of a "
            f"checkpoint"
        ) from error


def require_checkpoint(path: Path) -> None:
    """Make sure that there is a checkpoint of a run, and that a file is not cut short, before a model is made.

    Args:
        path: A ``.ckpt`` file, or the folder of a run.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file is no checkpoint of PyTorch.
    """
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path}: is a link to {os.readlink(path)}, which is not there")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: is no checkpoint of PyTorch, or was cut short ({path.stat().st_size} bytes)")


def _neighbours(path: Path) -> list[str]:
    """What lies beside a folder that is not there, as far as it is worth to show."""
    try:
        found = sorted(str(each) for each in path.parent.iterdir() if (each / "config.json").is_file())
    except OSError:
        return []
    return found[:3]


_OF_FILES = (
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)


@contextmanager
def loading(name_or_path: str | Path, what: str) -> Iterator[None]:
    """Within, errors of `transformers` and `safetensors` name the checkpoint, and a weight file that is cut short.

    What a library says about files that do not belong together has any type: a tokenizer of another family lacks an
    attribute, weights have another shape. Too little memory is passed on as it is.

    Args:
        name_or_path: Folder of the checkpoint, or a name on the hub.
        what: Is loaded of it: ``weights``, ``processor``, ``config.json``.

    Raises:
        PermissionError: If this user may not read a weight file.
        ValueError: If it cannot be loaded.
    """
    try:
        yield
    except _OF_FILES as error:
        if "memory" in str(error).lower():
            raise
        broken = _broken_weights(Path(name_or_path)) if what == "weights" else None
        if broken is None and isinstance(error, OSError) and error.errno is not None:
            raise
        reason = broken or f"{name_or_path}: the {what} cannot be loaded: {' '.join(str(error).split())}"
        raise ValueError(reason) from error


def _broken_weights(folder: Path) -> str | None:
    for file in sorted(folder.glob("*.safetensors")):
        if not os.access(file, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        try:
            with safe_open(str(file), framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            size = file.stat().st_size
            return f"{file}: damaged or cut short ({size} bytes): {error}; copy or download it again"
    return None
