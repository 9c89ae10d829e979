import hashlib
import json

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningDataModule
from literal_scoring import IMAGE_TOKENS
from PIL import Image
from released_benchmarks import mathvision_table

from datamodules.benchmarks.base import POLICY_INSTRUCTION
from datamodules.conversation.labels import IGNORE_INDEX
from datamodules.interfaces import PolicyFacts, RewardModelFacts
from datamodules.prompts_datamodule import PromptDataModule


@pytest.fixture
def connected(tiny_processor):
    def make(stage, **options):
        module = PromptDataModule(instruction="", **options)
        module.connect(PolicyFacts(tiny_processor))
        module.setup(stage)
        return module

    return make


def ids(loader):
    return [prompt.prompt_id for batch in loader for prompt in batch.prompts]


def test_prompts(connected, tiny_world):
    module = connected("predict", prompts=str(tiny_world / "prompts" / "annotations.jsonl"), batch_size=5)
    expected = [f"prompts-{number:05d}" for number in range(16)]
    assert module.prompt_ids == expected
    assert ids(module.predict_dataloader()) == expected
    assert [len(batch.prompts) for batch in module.predict_dataloader()] == [5, 5, 5, 1]
    # Those done earlier are not asked again, but stay in the list of all.
    module.completed_ids = set(expected[:7]) | {expected[9], "another prompt"}
    assert ids(module.predict_dataloader()) == [*expected[7:9], *expected[10:]]
    assert module.prompt_ids == expected


def test_only_the_first(connected, tiny_world):
    module = connected("predict", benchmarks=str(tiny_world / "benchmarks"), benchmark_names=["MMMU"], max_prompts=3)
    assert module.prompt_ids == ["MMMU/1", "MMMU/2", "MMMU/3"]
    assert ids(module.predict_dataloader()) == ["MMMU/1", "MMMU/2", "MMMU/3"]


def test_shards_of_the_prompts(connected, tiny_world):
    path = str(tiny_world / "prompts" / "annotations.jsonl")
    whole = connected("predict", prompts=path)
    shares = [connected("predict", prompts=path, num_shards=3, shard_index=index) for index in range(3)]
    assert [share.prompt_ids for share in shares] == [whole.prompt_ids] * 3
    served = [ids(share.predict_dataloader()) for share in shares]
    assert served == [whole.prompt_ids[index::3] for index in range(3)]
    shares[1].completed_ids = {served[1][0]}
    assert ids(shares[1].predict_dataloader()) == served[1][1:]


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_that_is_none(index, count):
    with pytest.raises(ValueError, match=r"shard_index must be one of 0 to|num_shards must be at least 1"):
        PromptDataModule(num_shards=count, shard_index=index)


def test_rules_and_splits_from_yaml(tmp_path, tiny_processor):
    """What a configuration file says about benchmarks arrives at their reader, for both data modules."""
    mathvision_table(tmp_path)
    config = {
        "benchmarks": str(tmp_path),
        "rules": "official",
        "benchmark_options": {"MathVision": {"split": "testmini"}},
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    path = "datamodules.prompts_datamodule.PromptDataModule"
    module = parser.instantiate_classes(parser.parse_object({"data": {"class_path": path, "init_args": config}})).data
    module.connect(PolicyFacts(tiny_processor))
    module.setup("predict")
    assert module.prompt_ids == ["MathVision/7", "MathVision/8"]
    (batch,) = module.predict_dataloader()
    assert not batch.prompts[0].grade("It would be 007").is_correct
    assert POLICY_INSTRUCTION in batch.messages[0][-1]["content"][-1]["text"]
    assert module.prediction_settings["rules"] == "official"
    row = {
        "benchmark": "MathVision",
        "question_id": "7",
        "sample_index": 0,
        "response": "It would be 007",
        "is_correct": True,
    }
    row |= {"extracted_answer": "007", "policy": "p", "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 9, "seed": 0}
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(row))
    config |= {
        "rollouts": str(tmp_path / "rollouts.jsonl"),
        "candidates_per_question": 1,
        "on_missing_rollouts": "skip",
    }
    path = "datamodules.visual_prm_400k.VisualPRM400KDataModule"
    module = parser.instantiate_classes(parser.parse_object({"data": {"class_path": path, "init_args": config}})).data
    module.setup("test")
    dataset = module._benchmarks["MathVision"]
    assert (dataset.benchmark.split, dataset.rules) == ("testmini", ["official"])
    assert [rollout.is_correct for rollout in dataset[0].rollouts] == [False]
    config["benchmark_options"]["MathVision"]["splits"] = "test"
    with pytest.raises(ArgumentError, match="splits"):
        parser.parse_object({"data": {"class_path": path, "init_args": config}})


def test_demonstrations(connected, tiny_world):
    path = str(tiny_world / "demonstrations" / "annotations.jsonl")
    module = connected("fit", demonstrations=path, batch_size=10, seed=1)
    seen = [name for batch in module.train_dataloader() for name in batch.sample_ids]
    # Six full batches without repetition, in an order of its own that the seed fixes; the four left over wait.
    assert len(set(seen)) == len(seen) == 60
    assert set(seen) <= {f"demonstrations-{number:05d}" for number in range(64)}
    assert seen != sorted(seen)
    again = connected("fit", demonstrations=path, batch_size=10, seed=1)
    assert [name for batch in again.train_dataloader() for name in batch.sample_ids] == seen
    other = connected("fit", demonstrations=path, batch_size=10, seed=2)
    assert [name for batch in other.train_dataloader() for name in batch.sample_ids] != seen
    assert module.val_dataloader() == []


def test_padding_free_demonstrations(tiny_processor, tiny_world, caplog):
    """The same batches in the same order, in a row each; padded where the model has a reason against it, by name."""
    path = str(tiny_world / "demonstrations" / "annotations.jsonl")

    def batches(obstacle=None, **options):
        module = PromptDataModule(demonstrations=path, instruction="", batch_size=10, **options)
        module.connect(PolicyFacts(tiny_processor, packing_obstacle=obstacle))
        module.setup("fit")
        return list(module.train_dataloader())

    padded, packed = batches(), batches(padding_free=True)
    assert [batch.sample_ids for batch in packed] == [batch.sample_ids for batch in padded]
    assert [batch.lengths.tolist() for batch in packed] == [batch.lengths.tolist() for batch in padded]
    for batch in packed:
        assert batch.inputs["input_ids"].shape == (1, sum(batch.lengths))
    assert not caplog.records
    refused = batches("no Gemma in a row", padding_free=True)
    assert [message for message in caplog.messages if "no Gemma in a row; batches are padded instead" in message]
    assert torch.equal(refused[0].inputs["attention_mask"], padded[0].inputs["attention_mask"])


def test_validation_demonstrations(connected, tiny_world):
    path = str(tiny_world / "demonstrations" / "annotations.jsonl")
    module = connected("validate", validation_demonstrations=path, batch_size=30)
    names = [name for batch in module.val_dataloader() for name in batch.sample_ids]
    assert names == [f"demonstrations-{number:05d}" for number in range(64)]


def test_a_bad_demonstration_is_named(connected, write_lines, tmp_path, caplog):
    good = {"question": "q", "answer": "1", "response": "So 1"}
    rows = [good, {"question": "q", "answer": "1"}, good | {"question": 1}, good | {"response": "So <|end|>"}]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=f"^{path}:2: field 'response' is missing"):
        connected("fit", demonstrations=str(path), on_bad_row="error")
    module = connected("fit", demonstrations=str(path), batch_size=1)
    assert len(module.train_dataloader()) == 1
    assert f"{path}: 2 rows cannot be used and are left out: {path}:2: field 'response' is missing" in caplog.text
    assert f"{path}:3: field 'question' must be a string, got 1" in caplog.text
    assert f"1 rows cannot be used and are left out: {path}:4: field 'response' holds '<|end|>'" in caplog.text


def test_demonstrations_that_are_too_long(tiny_processor, write_lines, tmp_path, caplog):
    """By their texts before the first step, and by what a picture adds when its batch is made."""
    asked = "<|user|>How many?<|end|><|assistant|>"
    answers = ["7", "7 7 7", "7 7 7 7 7", "7 7"]
    rows = [{"id": f"{n}", "question": "How many?", "answer": "7", "response": text} for n, text in enumerate(answers)]
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    rows[3]["image"] = "a.png"
    path = write_lines(tmp_path / "rows.jsonl", rows)

    def tokens(text):
        return len(tiny_processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    most = tokens(f"{asked}7 7 7<|end|>")
    longer, pictured = tokens(f"{asked}7 7 7 7 7<|end|>"), tokens(f"{IMAGE_TOKENS}{asked}7 7<|end|>")

    def batches(on_bad_row, facts, batch_size=3, **options):
        options |= {"on_bad_row": on_bad_row, "batch_size": batch_size}
        module = PromptDataModule(demonstrations=str(path), instruction="", **options)
        module.connect(facts)
        module.setup("fit")
        return list(module.train_dataloader())

    text = f"rows.jsonl:3: the conversation has {longer} tokens, more than the model's max_position_embeddings={most}"
    of_model = PolicyFacts(tiny_processor, max_tokens=most)
    with pytest.raises(ValueError, match=f"{text}; leave it out .*, or set max_tokens above it"):
        batches("error", of_model)
    for packed in (False, True):
        (batch,) = batches("skip", of_model, padding_free=packed)
        assert set(batch.sample_ids) == {"0", "1", "3"}
        assert list(batch.left_out) == ["3"]
        assert f"rows.jsonl:4: the conversation has {pictured} tokens, more than" in batch.left_out["3"]
        assert max(batch.lengths.tolist()) <= most
        assert int((batch.labels != IGNORE_INDEX).sum()) == tokens("7<|end|>") + tokens("7 7 7<|end|>")
    assert text in caplog.text
    with pytest.raises(ValueError, match=rf"rows.jsonl:3: .*{longer} tokens, more than max_tokens={most}; .*raise"):
        batches("error", PolicyFacts(tiny_processor), max_tokens=most)
    found = batches("error", of_model, batch_size=2, max_tokens=max(longer, pictured))
    assert sorted(name for batch in found for name in batch.sample_ids) == ["0", "1", "2", "3"]
    assert not any(batch.left_out for batch in found)


@pytest.mark.parametrize("connects_first", [False, True])
def test_prompts_with_special_tokens(connects_first, tiny_processor, write_lines, tmp_path, caplog):
    """They are left out once the model is known, which Lightning tells after it has set up the data."""
    rows = [{"id": name, "question": f"q{name}", "answer": "1"} for name in ("a", "<|end|>", "c")]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    module = PromptDataModule(prompts=str(path))
    if connects_first:
        module.connect(PolicyFacts(tiny_processor))
    module.setup("predict")
    if not connects_first:
        module.connect(PolicyFacts(tiny_processor))
    assert module.prompt_ids == ids(module.predict_dataloader()) == ["a", "c"]
    assert list(module.prompt_digests) == ["a", "<|end|>", "c"]
    assert len(set(module.prompt_digests.values())) == 3
    assert f"left out: {path}:2: field 'question' holds '<|end|>', a special token of the tokenizer" in caplog.text
    module = PromptDataModule(prompts=str(path), on_bad_row="error")
    module.connect(PolicyFacts(tiny_processor))
    with pytest.raises(ValueError, match=f"{path}:2: field 'question' holds"):
        module.setup("predict")


def test_no_prompts(connected, tmp_path):
    """A failed export, or a limit of none: not a run that ends well with nothing."""
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=r"empty\.jsonl: holds no prompts; the file is empty"):
        connected("predict", prompts=str(tmp_path / "empty.jsonl"))
    (tmp_path / "one.jsonl").write_text(json.dumps({"question": "q", "answer": "1"}))
    with pytest.raises(ValueError, match=r"no prompts are left \(max_prompts: 0\); give at least 1"):
        connected("predict", prompts=str(tmp_path / "one.jsonl"), max_prompts=0)


def test_a_position_inside_of_an_epoch_of_earlier_versions(connected, write_lines, tmp_path):
    """They told demonstrations without an id apart by file and line; digest as of version 154e482, computed by hand."""
    rows = [{"question": "q", "answer": "1", "response": "a"}, {"id": "x", "question": "r", "answer": "1"}]
    rows[1]["response"] = "b"
    module = connected("fit", demonstrations=str(write_lines(tmp_path / "rows.jsonl", rows)), batch_size=1)
    texts = ["rows-1", "q", "a", "x", "r", "b"]
    whole = hashlib.blake2b("".join(f"{len(text)}:{text}" for text in texts).encode(), digest_size=8)
    assert module._order()["fingerprint"] == whole.hexdigest()


def test_wrong_use(tiny_processor):
    with pytest.raises(ValueError, match="give either 'prompts' or 'benchmarks', not both"):
        PromptDataModule(prompts="a.jsonl", benchmarks="folder")
    for stage, name in (("fit", "demonstrations"), ("predict", "prompts")):
        with pytest.raises(ValueError, match=f"PromptDataModule needs '{name}' for this command"):
            PromptDataModule().setup(stage)
    with pytest.raises(
        RuntimeError, match=r"no policy has connected to the data module; call connect\(PolicyFacts\(processor\)\)"
    ):
        PromptDataModule().renderer  # noqa: B018
    with pytest.raises(TypeError, match=r"is for policies; a reward model takes .*VisualPRM400KDataModule"):
        PromptDataModule().connect(RewardModelFacts(None, 12, False))


def test_choices_of_how_prompts_are_asked(tiny_processor, tiny_world):
    """What the data module is given reaches the prompts, and is named only where it is not ours."""

    def prompts_of(**options):
        module = PromptDataModule(prompts=str(tiny_world / "prompts" / "annotations.jsonl"), max_prompts=1, **options)
        module.connect(PolicyFacts(tiny_processor))
        module.setup("predict")
        ((prompt,),) = [batch.prompts for batch in module.predict_dataloader()]
        return module.prediction_settings, prompt

    ours, prompt = prompts_of()
    assert ours == {"system_prompt": "", "instruction": None, "other_images": False, "rules": "ours"}
    assert prompt.policy_text == f"{prompt.question}\n{POLICY_INSTRUCTION}"
    chosen = {"instruction_template": "final_answer", "max_tiles": 3}
    settings, asked = prompts_of(**chosen)
    assert settings == ours | chosen
    assert asked.policy_text.startswith("<image>\nYour task is to answer the question below.")
    assert (asked.question, asked.max_tiles) == (prompt.question, 3)


@pytest.mark.parametrize("option", [{"prompts_as": "vlmevalkit"}, {"instruction_template": "boxed"}])
def test_an_instruction_beside_another_one(option):
    with pytest.raises(ValueError, match=r"give either 'instruction' or (prompts_as: vlmevalkit|instruction_template)"):
        PromptDataModule(instruction="Be quick.", **option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instruction_template": "boxed"}, "leave them out beside 'benchmarks'"),
        ({"without_sources": ["docvqa"]}, "leave them out beside 'benchmarks'"),
        ({"max_prompts_per_source": 3}, "leave them out beside 'benchmarks'"),
        ({"prompts_as": "vlmevalkit", "max_tiles": 3}, "leave out 'max_tiles': prompts_as: vlmevalkit has numbers of"),
    ],
)
def test_choices_of_rows_beside_benchmarks(options, message):
    with pytest.raises(ValueError, match=message):
        PromptDataModule(benchmarks="benchmarks", **options)


def test_tiles_of_benchmark_pictures(connected, tiny_world):
    module = connected("predict", benchmarks=str(tiny_world / "benchmarks"), benchmark_names=["MMMU"], max_tiles=2)
    assert {prompt.max_tiles for batch in module.predict_dataloader() for prompt in batch.prompts} == {2}
