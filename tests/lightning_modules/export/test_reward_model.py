"""Exported folders: what other programs make of them, and what their cards say."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tiny_families import EVERY_FAMILY, FAMILIES
from transformers import AutoModelForImageTextToText, AutoProcessor

from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.lora import LoraOptions
from lightning_modules.policy import Policy
from lightning_modules.process_reward import ProcessRewardModel
from lightning_modules.protocol import PROTOCOL_FILE, save_protocol

QUESTION = "How much is 2 + 3?"
RESPONSE = "First, 2 + 3 = 5.\n\nSo the answer is 5."
PROMPT = 'You\'re asked to "check" {every} step.\nAnswer + or - \\ ü 😀 {% no tag %} {{ nor this }} # 100%'


def trained(checkpoint, **options):
    """A model whose head rows and adapters are not those it began with."""
    torch.manual_seed(0)
    model = ProcessRewardModel(str(checkpoint), **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ("lora_B" in name or name == "head.weight"):
                parameter.add_(0.5 * parameter.std().clamp_min(0.1) * torch.randn_like(parameter))
    return model.eval()


def run_card(folder, monkeypatch, picture, **replaced):
    """Run the first program of a folder's model card in that folder, and return the scores it ends with."""
    (program, _) = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    for old, new in replaced.items():
        assert old in program
        program = program.replace(old, new)
    if picture is not None:
        picture.save(folder / "picture.png")
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    return names["scores"]


@pytest.mark.parametrize("system_prompt", [PROMPT, ""])
@pytest.mark.parametrize("objective", ["value", "advantage", "outcome"])
def test_the_program_of_the_card_gives_our_scores(
    sharp_checkpoint, picture, tmp_path, monkeypatch, objective, system_prompt
):
    model = trained(sharp_checkpoint, objective=objective, system_prompt=system_prompt)
    model.save_pretrained(tmp_path)
    ours = model.score(picture(1), QUESTION, [RESPONSE])
    assert len(ours.step_scores[0]) == (1 if objective == "outcome" else 2)
    assert run_card(tmp_path, monkeypatch, picture(1)) == pytest.approx(ours.step_scores[0], abs=1e-4)
    again = ProcessRewardModel.from_pretrained(tmp_path)
    assert again.score(picture(1), QUESTION, [RESPONSE]).step_scores[0] == pytest.approx(ours.step_scores[0], abs=1e-5)
    # The picture, the head and the prompt take part: others give other scores.
    assert run_card(tmp_path, monkeypatch, picture(2)) != pytest.approx(ours.step_scores[0], abs=1e-4)
    before = ProcessRewardModel.from_pretrained(sharp_checkpoint, objective=objective, system_prompt=system_prompt)
    assert before.score(picture(1), QUESTION, [RESPONSE]).step_scores[0] != pytest.approx(ours.step_scores[0], abs=1e-4)
    other = ProcessRewardModel.from_pretrained(tmp_path, system_prompt="7" if not system_prompt else "")
    assert other.score(picture(1), QUESTION, [RESPONSE]).step_scores[0] != pytest.approx(ours.step_scores[0], abs=1e-4)


@pytest.mark.parametrize("name", [*(case for case in EVERY_FAMILY if case.values != ("gemma2_text",)), "gemma2_text"])
def test_families(name, family_checkpoint, picture, tmp_path, monkeypatch):
    model = trained(family_checkpoint(name), system_prompt="You check every step.")
    model.save_pretrained(tmp_path)
    images = picture(1) if FAMILIES[name].is_multimodal else None
    ours = model.score(images, QUESTION, [RESPONSE]).step_scores[0]
    assert run_card(tmp_path, monkeypatch, images) == pytest.approx(ours, abs=1e-4)
    if images is not None:
        text_only = model.score(None, QUESTION, [RESPONSE]).step_scores[0]
        found = run_card(tmp_path, monkeypatch, None, **{'[Image.open("picture.png").convert("RGB")]': "[]"})
        assert found == pytest.approx(text_only, abs=1e-4)
        assert found != pytest.approx(ours, abs=1e-4)
    # The template writes the prompt by itself wherever it knows system turns: Gemma 2 refuses them.
    messages = [{"role": "user", "content": "7" if images is None else [{"type": "text", "text": "7"}]}]
    written = AutoProcessor.from_pretrained(tmp_path).apply_chat_template(messages, tokenize=False)
    assert ("You check every step." in written) == (name != "gemma2_text")
    again = ProcessRewardModel.from_pretrained(tmp_path)
    assert again.score(images, QUESTION, [RESPONSE]).step_scores[0] == pytest.approx(ours, abs=1e-5)


def test_adapters_are_merged(sharp_checkpoint, picture, tmp_path, monkeypatch):
    model = trained(
        sharp_checkpoint, system_prompt=PROMPT, backbone=BackboneOptions(lora=LoraOptions(rank=4, dropout=0.0))
    )
    model.save_pretrained(tmp_path / "export")
    ours = model.score(picture(1), QUESTION, [RESPONSE]).step_scores[0]
    assert run_card(tmp_path / "export", monkeypatch, picture(1)) == pytest.approx(ours, abs=1e-4)
    with safe_open(tmp_path / "export" / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert not any("lora" in name for name in names)
    # The model goes on as it was, adapters and all.
    assert any("lora" in name for name, _ in model.named_parameters())
    assert model.score(picture(1), QUESTION, [RESPONSE]).step_scores[0] == ours
    without = trained(sharp_checkpoint, system_prompt=PROMPT)
    assert without.score(picture(1), QUESTION, [RESPONSE]).step_scores[0] != pytest.approx(ours, abs=1e-4)


def test_other_class_tokens(sharp_checkpoint, picture, tmp_path, monkeypatch):
    model = trained(sharp_checkpoint, class_tokens=["9", "7"])
    model.save_pretrained(tmp_path)
    ours = model.score(picture(1), QUESTION, [RESPONSE]).step_scores[0]
    assert run_card(tmp_path, monkeypatch, picture(1)) == pytest.approx(ours, abs=1e-4)
    assert ProcessRewardModel.from_pretrained(tmp_path).protocol.class_tokens == ["9", "7"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_images_in_the_question(sharp_checkpoint, picture, tmp_path, monkeypatch, count):
    """As in converted VisualPRM checkpoints; what is trained from them keeps it."""
    folder = shutil.copytree(sharp_checkpoint, tmp_path / "converted")
    model = trained(sharp_checkpoint)
    save_protocol(replace(model.protocol, image_layout="in_question"), folder)
    model = trained(folder)
    model.save_pretrained(tmp_path / "export")
    pictures = [picture(number) for number in range(count)]
    ours = model.score(pictures, QUESTION, [RESPONSE]).step_scores[0]
    for number, image in enumerate(pictures):
        image.save(tmp_path / "export" / f"{number}.png")
    opened = f"[Image.open(str(number) + '.png').convert('RGB') for number in range({count})]"
    found = run_card(tmp_path / "export", monkeypatch, None, **{'[Image.open("picture.png").convert("RGB")]': opened})
    assert found == pytest.approx(ours, abs=1e-4)
    first = trained(sharp_checkpoint).score(pictures, QUESTION, [RESPONSE]).step_scores[0]
    assert (first == pytest.approx(ours, abs=1e-5)) == (count == 0)


def test_the_program_of_the_card_resizes_as_the_model_does(sharp_checkpoint, tmp_path, monkeypatch):
    """Converted VisualPRM checkpoints resize with Pillow, whose pixels differ from torchvision's."""
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 97, 3)).astype(np.uint8))
    model = trained(sharp_checkpoint, image_backend="pil")
    model.save_pretrained(tmp_path)
    ours = model.score(wide, QUESTION, [RESPONSE]).step_scores[0]
    assert run_card(tmp_path, monkeypatch, wide) == pytest.approx(ours, abs=1e-6)
    other = ProcessRewardModel.from_pretrained(tmp_path, image_backend="torchvision")
    assert other.score(wide, QUESTION, [RESPONSE]).step_scores[0] != pytest.approx(ours, abs=1e-6)


def test_shards_and_what_else_is_in_the_folder(sharp_checkpoint, tmp_path):
    model = trained(sharp_checkpoint)
    model.backbone.generation_config.temperature = 0.3
    model.backbone.generation_config.do_sample = True
    (tmp_path / "mine.txt").write_text("stays")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "mine.txt").read_text() == "stays"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 2
    assert all((tmp_path / shard).stat().st_size < 100_000 for shard in shards)
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = model.encoder.class_token_ids
    assert torch.equal(loaded.get_output_embeddings().weight[ids], model.head.weight)
    stored = json.loads((tmp_path / "generation_config.json").read_text())
    assert set(stored) <= {"_from_model_config", "transformers_version", "eos_token_id", "pad_token_id", "bos_token_id"}
    assert stored["eos_token_id"] == model.processor.tokenizer.eos_token_id
    # The model itself keeps what it had.
    assert model.backbone.generation_config.temperature == 0.3
    assert "system prompt" not in model.processor.chat_template
    assert json.loads((tmp_path / PROTOCOL_FILE).read_text())["system_prompt"] == model.protocol.system_prompt


def test_what_a_tokenizer_was_last_used_for_is_not_saved(sharp_checkpoint, tmp_path):
    """So that a run that is resumed, or run again, ends with the same files."""
    model = ProcessRewardModel(str(sharp_checkpoint))
    backend = model.processor.tokenizer.backend_tokenizer
    model.processor.tokenizer(["3", "3 + 4"], padding=True, truncation=True, max_length=2)
    used = backend.padding, backend.truncation
    assert None not in used
    model.save_pretrained(tmp_path / "used")
    assert (backend.padding, backend.truncation) == used
    ProcessRewardModel(str(sharp_checkpoint)).save_pretrained(tmp_path / "new")
    written = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("used", "new")]
    assert written[0] == written[1]
    assert (json.loads(written[0])["padding"], json.loads(written[0])["truncation"]) == (None, None)


def test_a_policy_has_its_adapters_merged_and_keeps_how_it_samples(sharp_checkpoint, tmp_path):
    options = BackboneOptions(lora=LoraOptions(rank=4, dropout=0.0))
    policy = Policy(str(sharp_checkpoint), backbone=options).eval()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    policy.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    base = AutoModelForImageTextToText.from_pretrained(sharp_checkpoint).eval()
    ids = torch.tensor([[5, 9, 40, 41]])
    with torch.no_grad():
        expected = policy.backbone(input_ids=ids).logits
        assert torch.allclose(plain(input_ids=ids).logits, expected, atol=1e-4)
        assert not torch.allclose(base(input_ids=ids).logits, expected, atol=1e-2)


def test_a_model_that_goes_on_training_has_no_prompt_of_the_first(sharp_checkpoint, tmp_path):
    """A policy or another reward model that starts from the folder reads conversations as the base model does."""
    trained(sharp_checkpoint, system_prompt="You check .").save_pretrained(tmp_path)
    base = AutoProcessor.from_pretrained(sharp_checkpoint)
    assert AutoProcessor.from_pretrained(tmp_path).chat_template != base.chat_template
    assert Policy(str(tmp_path)).processor.chat_template == base.chat_template
    without = ProcessRewardModel(str(tmp_path), system_prompt="")
    assert "You check" not in without.encoder.render("Why?", 0, ["7"])
