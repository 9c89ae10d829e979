"""Models under FSDP2 in two processes: what they hold, what they compute, how they train and what they write."""

import json
import shutil

import pytest
import torch
from cli_runs import QUIET, REPOSITORY, visualprm
from distributed_ranks import run_ranks
from PIL import Image
from safetensors.torch import load_file
from tiny_families import FAMILIES, USUAL, write_family
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

TIED = "internvl_tied"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, raw_rows, tiny_world):
    """What the scenarios read and write: checkpoints of all families, a tied one, rows with and without a picture."""
    folder = tmp_path_factory.mktemp("sharding")
    for name in USUAL:
        write_family(name, folder / "families" / name)
    source = folder / "families" / "internvl_qwen2"
    model = AutoModelForImageTextToText.from_pretrained(source)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder / "families" / TIED)
    AutoProcessor.from_pretrained(source).save_pretrained(folder / "families" / TIED)
    write_larger(source, folder / "large")
    Image.effect_noise((32, 32), 80).convert("RGB").save(folder / "picture.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in raw_rows))
    return folder


def write_larger(source, folder):
    """A checkpoint that weighs something beside a process: 80 MB in bfloat16."""
    config = AutoConfig.from_pretrained(source)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 512, 2048, 12
    text.layer_types = ["full_attention"] * 12
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(source).save_pretrained(folder)


@pytest.fixture(scope="module")
def raw_rows():
    """Every third one has a picture, so that now one rank has one, now both and now none."""
    steps = ["The digits are 3, 7 and 9.", "So the answer is 2."]
    rows = []
    for number in range(13):
        scores = [0.75, float(number % 2)]
        row = {
            "id": f"q{number}",
            "question": "How many digits are larger than 4?",
            "answer": "2",
            "response": "\n\n".join(steps),
            "steps_with_score": [
                {"step": step, "score": score, "num_mc_correct": int(4 * score), "num_mc_total": 4}
                for step, score in zip(steps, scores, strict=True)
            ],
            "num_mc_sequences": 4,
        }
        rows.append(row | ({"image": "picture.png"} if number % 3 == 0 else {}))
    return rows


@pytest.fixture(scope="module")
def annotation_arguments(folder, tiny_world):
    """Of an annotation by an untrained policy, some of whose texts end early."""
    return [
        f"--model.model_name_or_path={folder}/families/internvl_qwen2",
        "--model.num_solutions=2",
        "--model.num_continuations=2",
        "--model.sampling.max_new_tokens=12",
        "--data.batch_size=4",
        f"--data.prompts={tiny_world}/prompts/annotations.jsonl",
        f"--trainer.default_root_dir={folder}",
        *QUIET,
    ]


@pytest.fixture(scope="module")
def results(folder, annotation_arguments):
    """What the scenarios of sharded_jobs.py found, all in one pair of processes."""
    (folder / "annotation.txt").write_text("\n".join(annotation_arguments))
    names = ["memory", "families", "devices", "quantized", "strategies", "annotation"]
    run_ranks("sharded_jobs:main", [folder, names], ranks=2, folder=folder, timeout=900)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


@pytest.fixture(scope="module")
def more_results(results, folder):
    """The same with the scenarios of `make test-all`."""
    for name in sorted(set(FAMILIES) - set(USUAL)):
        write_family(name, folder / "families" / name)
    names = {"families": "other_families", "strategies": "more_strategies"}
    run_ranks("sharded_jobs:main", [folder, list(names.values())], ranks=2, folder=folder, timeout=900)
    return {kind: results[kind] | json.loads((folder / f"{name}.json").read_text()) for kind, name in names.items()}


@pytest.fixture
def found_of(results, request):
    """Gives what was found about a family or a training; those that are not usual are run when one is asked for."""

    def found(kind, name):
        return (results if name in results[kind] else request.getfixturevalue("more_results"))[kind][name]

    return found


EVERY_FAMILY = [
    pytest.param(name, marks=[] if name in (*USUAL, TIED) else [pytest.mark.thorough]) for name in [*FAMILIES, TIED]
]


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_a_sharded_model_is_the_checkpoint(name, found_of):
    """To the last bit, dtypes and what is trained included, and each of two ranks holds half of it."""
    found = found_of("families", name)
    assert found["differences"] == []
    assert found["share"] == pytest.approx(0.5, abs=0.01)
    plain, sharded = ([score for steps in scores for score in steps] for scores in found["scores"])
    assert len(set(plain)) > 3
    assert sharded == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("name", [*EVERY_FAMILY, "tied policy"])
def test_gradients_are_means_where_one_rank_has_a_picture(name, found_of):
    """And the other one has not; the mean is that of a model that is not sharded."""
    assert found_of("families", name)["wrong_gradients"] == []


def test_a_tied_head_stays_tied(results):
    found = results["families"]["tied policy"]
    assert found["differences"] == []
    assert found["is_tied"]


def test_no_rank_waits_for_weights_that_all_hold(results):
    """While texts are sampled, a forward gathers nothing; adapters that are units of their own included."""
    assert results["families"]["whole"] == [1, 0, 1]


def test_shards_in_main_memory_stay_there(results):
    """While Lightning moves everything else to the device."""
    assert results["devices"] == {"shards": ["cpu"], "buffers": ["meta"], "module": "meta"}


def test_no_rank_holds_the_whole_checkpoint(results):
    """Peaks of memory while it is loaded; a process that loads it whole holds its size."""
    found = results["memory"]
    assert found["whole"] > 0.95 * found["size"] > 1.4e8
    assert found["sharded"] < 0.75 * found["size"]


def test_adapters_and_other_dtypes(results):
    assert results["families"]["with adapters"]["differences"] == []
    assert results["families"]["in bfloat16"]["differences"] == []


def test_what_cannot_be_sharded_is_said(results):
    assert "nf4 weights of bitsandbytes cannot be sharded; take experiments/strategies/ddp.yaml" in results["quantized"]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("fsdp2", "ddp"),
        ("hybrid", "ddp"),
        ("offload", "ddp"),
        ("fsdp2_some", "ddp_some"),
        pytest.param("fsdp2_lora", "ddp_lora", marks=pytest.mark.thorough),
    ],
)
def test_strategies_train_the_same(name, reference, found_of, folder):
    """The same losses, and the same exported weights; DDP keeps whole weights and knows nothing of shards."""
    found, expected = (found_of("strategies", run) for run in (name, reference))
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["validation"] == pytest.approx(expected["validation"], abs=1e-5)
    exported, other = (load_file(folder / "models" / run / "model.safetensors") for run in (name, reference))
    began = load_file(folder / "families" / "internvl_qwen2" / "model.safetensors")
    assert exported.keys() == other.keys() == began.keys()
    for weight in began:
        # A bias of keys changes no attention without rotations: AdamW makes whole steps of its gradient's rounding.
        is_idle = weight.startswith("vision_tower") and weight.endswith("k_proj.bias")
        torch.testing.assert_close(exported[weight], other[weight], atol=1e-2 if is_idle else 2e-5, rtol=0)
    moved = {weight for weight in began if (exported[weight] - began[weight]).abs().max() > 1e-4}
    is_vision = {weight for weight in moved if "vision" in weight}
    assert moved - is_vision
    assert bool(is_vision) == (reference != "ddp_some")
    AutoModelForImageTextToText.from_pretrained(folder / "models" / name)
    assert (folder / "models" / name / "README.md").exists()


def test_mixed_precision_computes_in_bfloat16_and_steps_in_float32(results):
    found = results["strategies"]
    # Computed with, held as shards, and gradients.
    assert found["mixed"]["dtypes"] == [["torch.bfloat16"], ["torch.float32"], ["torch.float32"]]
    assert found["fsdp2"]["dtypes"] == [["torch.float32"]] * 3
    assert found["mixed"]["losses"] == pytest.approx(found["fsdp2"]["losses"], rel=0.03)
    assert found["mixed"]["losses"] != pytest.approx(found["fsdp2"]["losses"], rel=1e-4)
    # Adapters, which do nothing before the first step, in float32 on layers in bfloat16.
    assert found["mixed_lora"]["losses"][0] == pytest.approx(found["fsdp2"]["losses"][0], rel=0.05)


@pytest.mark.thorough
def test_adapters_in_mixed_precision(found_of):
    """Rounding leads later losses apart, further on one processor than on another."""
    losses = [found_of("strategies", name)["losses"] for name in ("mixed_lora", "fsdp2_lora")]
    assert all(mixed == pytest.approx(precise, rel=0.25) for mixed, precise in zip(*losses, strict=True))


def test_a_sharded_policy_writes_the_same(results, folder, annotation_arguments, tmp_path):
    """Texts of different lengths, on ranks with different prompts; against one process."""
    config = f"--config={REPOSITORY}/experiments/quickstart/annotation.yaml"
    output = tmp_path / "plain.jsonl"
    visualprm(folder, "predict", config, *annotation_arguments, f"--trainer.callbacks.output={output}")
    rows = output.read_text().splitlines()
    assert len({len(json.loads(row)["response"]) for row in rows}) > 3
    assert sorted((folder / "annotation.jsonl").read_text().splitlines()) == sorted(rows)
    shutil.rmtree(tmp_path)
