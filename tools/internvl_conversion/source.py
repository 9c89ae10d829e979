"""The folder to convert: its configuration and the headers of its weight files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from datamodules.storage import fields
from datamodules.storage.files import parse_json_line

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the two formats; ``NAME.index.json`` lists the shards where there are several."""

GetTensor = Callable[[str], Tensor]


@dataclass(frozen=True)
class SourceTensor:
    """A tensor according to the header of its weight file."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not hold an object.
    """
    return parse_json_line(path.read_bytes(), str(path))


def _safetensors(file: Path) -> tuple[dict[str, SourceTensor], GetTensor, Any]:
    opened = safe_open(str(file), framework="pt")
    tensors = {}
    for name in opened.keys():
        part = opened.get_slice(name)
        dtype = getattr(torch, _SAFETENSORS_DTYPES.get(part.get_dtype(), ""), None)
        if dtype is None:
            raise ValueError(f"{file}: tensor {name!r} holds {part.get_dtype()}, not floating-point weights")
        tensors[name] = SourceTensor(file, tuple(part.get_shape()), dtype)
    return tensors, opened.get_tensor, opened


_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _pytorch(file: Path) -> tuple[dict[str, SourceTensor], GetTensor, None]:
    # Only tensors are unpickled, and they stay in the file until they are read.
    loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    tensors = {}
    for name, tensor in loaded.items() if isinstance(loaded, dict) else [("", loaded)]:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(
                f"{file}: must hold floating-point weights by name, got {fields.shown(tensor)} at {name!r}"
            )
        tensors[name] = SourceTensor(file, tuple(tensor.shape), tensor.dtype)
    return tensors, loaded.__getitem__, None


def _open(file: Path) -> tuple[dict[str, SourceTensor], GetTensor, Any]:
    try:
        return _safetensors(file) if file.suffix == ".safetensors" else _pytorch(file)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{file}: cannot be read as weights; is it a whole download, and not a pointer of Git LFS? {error}"
        ) from error


class SourceWeights:
    """The tensors of a checkpoint, in one file or in shards with an index.

    Attributes:
        tensors: Tensors by name, in the order of the files.

    Raises:
        FileNotFoundError: If there are no weights, or a shard is missing.
        ValueError: If index and shards do not agree, or a tensor does not hold floating-point numbers.
    """

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, SourceTensor] = {}
        files, listed = self._files(folder)
        for file in files:
            for name, tensor in _open(file)[0].items():
                if name in self.tensors:
                    raise ValueError(f"tensor {name!r} is in {self.tensors[name].file} and in {file}")
                self.tensors[name] = tensor
        if listed is not None:
            found = {name: tensor.file.name for name, tensor in self.tensors.items()}
            wrong = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
            if wrong:
                raise ValueError(f"{folder}: the index and the shards do not agree on {fields.first_of(wrong)}")

    @staticmethod
    def _files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
        for name in WEIGHT_FILES:
            index = folder / f"{name}.index.json"
            if index.is_file():
                listed = fields.required(read_json(index), "weight_map", str(index))
                if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
                    raise fields.wrong_field(str(index), "weight_map", "an object of file names", listed)
                files = [folder / Path(file).name for file in sorted(set(listed.values()))]
                missing = [str(file) for file in files if not file.is_file()]
                if missing:
                    raise FileNotFoundError(f"{index}: missing weight files: {fields.first_of(missing)}")
                return files, listed
            if (folder / name).is_file():
                return [folder / name], None
        raise FileNotFoundError(f"{folder}: no weights; expected {' or '.join(WEIGHT_FILES)}, whole or in shards")

    @contextmanager
    def reader(self) -> Iterator[GetTensor]:
        """Reads tensors by name; their memory is freed after the block."""
        opened: dict[Path, GetTensor] = {}
        with ExitStack() as stack:

            def get(name: str) -> Tensor:
                file = self.tensors[name].file
                if file not in opened:
                    _, opened[file], handle = _open(file)
                    if handle is not None:
                        stack.enter_context(handle)
                return opened[file](name)

            yield get
            opened.clear()
