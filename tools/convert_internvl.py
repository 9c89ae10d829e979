r"""Convert an original-layout InternVL2.5 or InternVL3 folder, or VisualPRM-8B, into the layout of `transformers`.

Reads the released folder (``InternVLChatModel`` or ``InternVLRewardModel`` with an InternLM2, Qwen2, Qwen3 or Llama
language model) without running any of its code, and writes an ordinary checkpoint that
``ProcessRewardModel.from_pretrained`` and ``AutoModelForImageTextToText.from_pretrained`` load. Example::

    python -m tools.convert_internvl downloads/VisualPRM-8B data/visualprm_8b
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import GenerationConfig, PreTrainedTokenizerFast

from datamodules.storage.files import atomic_folder, require_writable_folder
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import file_size, nonempty_path, whole_number
from lightning_modules.protocol import PRESETS, PROTOCOL_FILE, Protocol, save_protocol
from tools.internvl_conversion.configuration import REWARD_MODEL, read_configuration
from tools.internvl_conversion.conversation_template import ConversationTemplate, read_template
from tools.internvl_conversion.processor import MAX_TILES, make_processor
from tools.internvl_conversion.shards import parse_size, write_shards
from tools.internvl_conversion.source import SourceWeights
from tools.internvl_conversion.tokenizer import IMAGE_TOKENS, convert_tokenizer
from tools.internvl_conversion.weights import check_tied_head, native_shapes, plan_conversion

RELEASED_STEP_THRESHOLD = 0.85
"""From which soft score on the authors of VisualPRM-8B count a step as right on VisualProcessBench."""


def convert(
    source: Path,
    output: Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_size: str = "5GB",
    system_prompt: str | None = None,
    max_tiles: int = MAX_TILES,
    overwrite: bool = False,
) -> dict[str, object]:
    """Convert the folder ``source`` into the new folder ``output``.

    Everything is checked before the first weight is written, and ``output`` appears when it is complete.

    Args:
        source: Released folder: config.json, weights, tokenizer files, conversation.py.
        output: Folder to write.
        dtype: Dtype of the weights; by default as in the source.
        max_shard_size: Largest weight file, such as ``5GB``; memory holds about one.
        system_prompt: System prompt instead of the source's own: ``system_message`` of its ``config.json``, or without
            it that of its conversation template.
        max_tiles: Most tiles of a picture, the thumbnail not counted.
        overwrite: Whether to replace a converted (or exported) model that is in ``output``.

    Returns:
        Facts of the conversion: architecture, numbers of tensors and parameters, files, dtype and system prompt.

    Raises:
        FileNotFoundError: If a file of the source is missing.
        FileExistsError: If ``output`` is not empty and ``overwrite`` is False, or if it holds something else than a
            model.
        ValueError: If the source holds something that this conversion does not support, or the disk is too small.
    """
    if max_tiles < 1:
        raise ValueError(f"max_tiles must be at least 1, got {max_tiles}")
    max_size = parse_size(max_shard_size)
    _check_output(source, output, overwrite)
    require_writable_folder(output)
    configuration = read_configuration(source)
    native = configuration.native
    dtype = dtype or configuration.dtype
    if dtype is None:
        raise ValueError(f"{source / 'config.json'}: no torch_dtype; give the dtype of the weights with --dtype")
    if system_prompt is None:
        system_prompt = configuration.system_message
    template = read_template(source, configuration.template, system_prompt)
    tokenizer = convert_tokenizer(
        source, is_internlm2=configuration.is_internlm2, vocabulary_size=native.text_config.vocab_size
    )
    processor = make_processor(configuration, tokenizer, template, max_tiles)
    native.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["context_image_token"])
    native.dtype = dtype
    generation = _generation_config(tokenizer, template)
    weights = SourceWeights(source)
    plan = plan_conversion(weights.tensors, native, is_internlm2=configuration.is_internlm2)
    check_tied_head(weights, native, is_internlm2=configuration.is_internlm2)
    shapes = native_shapes(native)
    parameters = sum(torch.Size(shape).numel() for shape in shapes.values())
    _check_space(output, parameters * dtype.itemsize)
    with atomic_folder(output) as folder:
        files = write_shards(weights, plan, folder, dtype, max_size)
        _check_written(files, shapes)
        processor.save_pretrained(folder)
        generation.save_pretrained(folder)
        save_protocol(_protocol(template, configuration.architecture), folder)
        # Last: a folder without it is no checkpoint, should this process be killed.
        native.save_pretrained(folder)
    return {
        "output": str(output),
        "architecture": configuration.architecture,
        "text_model": native.text_config.model_type,
        "source_tensors": len(weights.tensors),
        "tensors": len(shapes),
        "parameters": parameters,
        "files": len(files),
        "dtype": str(dtype).removeprefix("torch."),
        "system_prompt": template.system_message,
    }


def _check_output(source: Path, output: Path, overwrite: bool) -> None:
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder")
    if source.resolve() == output.resolve() or output.resolve() in source.resolve().parents:
        raise ValueError(f"{output}: must lie outside of the source folder {source}, which is kept")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not overwrite:
            raise FileExistsError(f"{output}: exists already; give another folder, or --overwrite to replace it")
        if not all((output / name).is_file() for name in ("config.json", PROTOCOL_FILE)):
            raise FileExistsError(
                f"{output}: holds something else than a converted model (no config.json with a {PROTOCOL_FILE}) and is "
                f"not replaced; remove it yourself, or give another folder"
            )
    left_over = sorted(str(path) for path in output.parent.glob(f"{output.name}.partial-*"))
    if left_over:
        print(
            f"note: left over from conversions that were killed, or still running: {', '.join(left_over)}",
            file=sys.stderr,
        )


def _check_space(output: Path, needed: int) -> None:
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ValueError(f"{output}: needs {needed / 1e9:.1f} GB, but {existing} has {free / 1e9:.1f} GB free")


def _check_written(files: Sequence[Path], shapes: dict[str, tuple[int, ...]]) -> None:
    """Compare the headers of the files on disk with the native model."""
    written: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            written |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    if written != shapes:
        wrong = sorted(name for name in written.keys() | shapes.keys() if written.get(name) != shapes.get(name))
        raise RuntimeError(f"the weights written are not those of the native model: {wrong}")


def _generation_config(tokenizer: PreTrainedTokenizerFast, template: ConversationTemplate) -> GenerationConfig:
    end = tokenizer(template.end_of_turn, add_special_tokens=False)["input_ids"]
    if len(end) != 1:
        raise ValueError(f"the end of a turn, {template.end_of_turn!r}, must be one token of the tokenizer, is {end}")
    return GenerationConfig(
        eos_token_id=end[0], pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )


def _protocol(template: ConversationTemplate, architecture: str) -> Protocol:
    if architecture != REWARD_MODEL:
        return Protocol(system_prompt=template.system_message, image_layout="in_question")
    settings = PRESETS["visualprm_400k"] | {"system_prompt": template.system_message}
    return Protocol(
        **settings,
        step_threshold=RELEASED_STEP_THRESHOLD,
        step_threshold_chosen_on="VisualProcessBench, by the authors of VisualPRM-8B",
    )


@tool("visualprm-convert")
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the tool; returns the exit status."""
    parser = ToolParser(prog="visualprm-convert", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "source", type=nonempty_path, help="released folder: config.json, weights, tokenizer, conversation.py"
    )
    parser.add_argument("output", type=nonempty_path, help="folder to write")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="as in the source by default")
    parser.add_argument(
        "--max-shard-size", type=file_size, default="5GB", help="of a weight file; memory holds about one"
    )
    parser.add_argument("--system-prompt", help="in place of the one in the source's config.json or conversation.py")
    parser.add_argument(
        "--max-tiles",
        type=whole_number(1, 1024),
        default=MAX_TILES,
        help="most tiles of a picture besides its thumbnail",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the converted model in the output folder")
    parsed = parser.parse_args(arguments)
    report = convert(
        parsed.source,
        parsed.output,
        dtype=getattr(torch, parsed.dtype) if parsed.dtype else None,
        max_shard_size=parsed.max_shard_size,
        system_prompt=parsed.system_prompt,
        max_tiles=parsed.max_tiles,
        overwrite=parsed.overwrite,
    )
    print(json.dumps(report, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
