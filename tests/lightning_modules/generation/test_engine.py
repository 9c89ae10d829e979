"""Engines by class path: `visualprm predict` with a second engine that samples by itself."""

import json

import pytest
import torch
import yaml
from cli_runs import visualprm
from generate_engine import GenerateEngine
from transformers import AutoModelForImageTextToText, AutoProcessor

from lightning_modules.annotation import MonteCarloAnnotator
from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import TransformersEngine, engine_settings

POLICY = ("lightning_modules.policy.Policy", {"num_samples": 3})
ANNOTATOR = ("lightning_modules.annotation.MonteCarloAnnotator", {"num_solutions": 2, "num_continuations": 2})


@pytest.fixture(scope="module")
def checkpoint(sharp_checkpoint, tmp_path_factory):
    """The sharp checkpoint, but tokens that are no words have logits of 0: texts can be told apart."""
    folder = tmp_path_factory.mktemp("words")
    model = AutoModelForImageTextToText.from_pretrained(sharp_checkpoint)
    processor = AutoProcessor.from_pretrained(sharp_checkpoint)
    tokens = processor.tokenizer.convert_ids_to_tokens(range(model.lm_head.out_features))
    is_word = torch.tensor(
        [token is not None and token.isascii() and token.isalpha() and len(token) > 2 for token in tokens]
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(is_word[:, None])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def predict(folder, tiny_world, checkpoint, module, temperature, engine=None, *options):
    """Rows that the command writes for the first questions of the world."""
    class_path, arguments = module
    arguments = {
        **arguments,
        "model_name_or_path": str(checkpoint),
        "sampling": {"temperature": temperature, "max_new_tokens": 8, "seed": 1},
        **({} if engine is None else {"engine": {"class_path": "generate_engine.GenerateEngine", **engine}}),
    }
    data = {"prompts": str(tiny_world / "prompts" / "annotations.jsonl"), "max_prompts": 3, "batch_size": 2}
    writer = "lightning_modules.callbacks.prediction_writer.PredictionWriter"
    config = {
        "model": {"class_path": class_path, "init_args": arguments},
        "data": {"class_path": "datamodules.prompts_datamodule.PromptDataModule", "init_args": data},
        "return_predictions": False,
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "default_root_dir": str(folder),
            "callbacks": [{"class_path": writer, "init_args": {"output": str(folder / "rows.jsonl")}}],
        },
    }
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    visualprm(folder, "predict", f"--config={folder / 'config.yaml'}", *options)
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("module", [POLICY, ANNOTATOR], ids=["policy", "annotator"])
def test_greedy_texts_of_both_engines_are_the_same(module, tiny_world, checkpoint, tmp_path):
    ours = predict(tmp_path / "ours", tiny_world, checkpoint, module, 0)
    assert predict(tmp_path / "theirs", tiny_world, checkpoint, module, 0, {}) == ours
    assert len(ours) == 3 * (3 if module is POLICY else 2)
    assert len({row["response"] for row in ours}) >= 2


def test_the_other_engine_samples_with_its_own_arguments(tiny_world, checkpoint, tmp_path):
    run = [tiny_world, checkpoint, POLICY]
    greedy = [row["response"] for row in predict(tmp_path / "greedy", *run, 0)]
    warm = [predict(tmp_path / f"warm{n}", *run, 1.5, {"init_args": {"top_k": 40}}) for n in range(2)]
    assert warm[0] == warm[1]
    assert len({row["response"] for row in warm[0]}) > len(set(greedy))
    # The most likely token alone, from the command line: greedy at any temperature.
    option = "--model.engine.init_args.top_k=1"
    narrow = predict(tmp_path / "narrow", *run, 1.5, {"init_args": {"top_k": 40}}, option)
    assert [row["response"] for row in narrow] == greedy


def test_what_is_no_engine_is_refused(tiny_world, checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        predict(tmp_path / "run", tiny_world, checkpoint, POLICY, 0, {"class_path": "torch.nn.Identity"})
    assert "engine" in capsys.readouterr().err


def test_token_counts(sharp_model, sharp_checkpoint, picture):
    """Counted by the plain engine, in the texts that it reads and in the ids that `generate` returns."""
    processor = MonteCarloAnnotator(str(sharp_checkpoint)).processor
    content = [{"type": "image"}, {"type": "text", "text": "How many digits are larger than 4 ?"}]
    requests = [
        GenerationRequest([{"role": "user", "content": content}], [picture(1)], ["a"], "The digits are 3"),
        GenerationRequest([{"role": "user", "content": content[1:]}], [], ["b"]),
    ]
    sharp_model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    ours, theirs = TransformersEngine.of(sharp_model, processor), GenerateEngine()
    theirs.attach(sharp_model, processor)
    parameters = SamplingParameters(temperature=0, max_new_tokens=6)
    found = ours.sample(requests, parameters)
    assert found == theirs.sample(requests, parameters)
    assert found[0][0].prompt_tokens > found[1][0].prompt_tokens


def test_predictions_of_another_engine_are_told_apart(sharp_checkpoint):
    """Those of the default engine are as before engines could be chosen, so that unfinished runs go on."""
    assert engine_settings(TransformersEngine()) == {}
    annotator = MonteCarloAnnotator(str(sharp_checkpoint), engine=GenerateEngine())
    assert annotator.prediction_settings["engine"] == "generate_engine.GenerateEngine"
    assert "engine" not in MonteCarloAnnotator(str(sharp_checkpoint)).prediction_settings
