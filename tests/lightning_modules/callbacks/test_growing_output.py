"""More samples of each prompt are added to a complete output, and one output for each source."""

import json

import pytest
from naming import NAMES, Killed, Names, Predictor, everything, predict, read
from torch.utils.data import DataLoader

from datamodules.batching.shards import Shard
from datamodules.policy.prompt_batches import PromptBatch
from datamodules.policy.prompts import Prompt


class Sampler(Predictor):
    """Predicts samples by their numbers, without those that are there."""

    growing_setting = "num_samples"

    def __init__(self, num_samples, run="first", temperature=1.0, **options):
        super().__init__(run, **options)
        self.num_samples = num_samples
        self.samples_done = {}
        self.prediction_settings = {"num_samples": num_samples, "temperature": temperature}
        self.drawn = []

    def predict_step(self, batch, batch_idx):
        answered = super().predict_step(batch, batch_idx)
        return [(name, [self.draw(name, number) for number in self.numbers(name)]) for name, _ in answered]

    def numbers(self, name):
        return range(self.samples_done.get(name, 0), self.num_samples)

    def draw(self, name, number):
        self.drawn.append((name, number))
        return {"name": name, "number": number, "run": self.run}


def rows(run_of_number):
    return [{"name": n, "number": k, "run": run} for n in NAMES for k, run in enumerate(run_of_number)]


def test_samples_are_added_and_none_is_drawn_again(tmp_path):
    output = tmp_path / "rows.jsonl"
    predict(output, Sampler(2))
    more = Sampler(5, "second")
    predict(output, more)
    assert read(output) == rows(["first"] * 2 + ["second"] * 3)
    assert sorted(more.drawn) == sorted((name, number) for name in NAMES for number in (2, 3, 4))
    manifest = json.loads((tmp_path / "rows.jsonl.settings").read_text())
    assert manifest["settings"]["num_samples"] == 5
    assert manifest["rows"] == 35
    assert manifest["prompts"]["count"] == 7
    assert "base" not in manifest
    before = everything(tmp_path)
    again = Sampler(5, "third")
    predict(output, again)
    assert again.drawn == []
    assert everything(tmp_path) == before


@pytest.mark.parametrize("killed_at", [0, 1, 3])
def test_killed_while_it_grows(tmp_path, killed_at):
    """What was complete stays in place, and the run goes on where it stood."""
    output = tmp_path / "rows.jsonl"
    predict(output, Sampler(2))
    with pytest.raises(Killed):
        predict(output, Sampler(3, "second", killed_at=killed_at))
    assert read(output) == rows(["first"] * 2)
    last = Sampler(3, "third")
    predict(output, last)
    runs = {name: "second" if place < 2 * killed_at else "third" for place, name in enumerate(NAMES)}
    found = read(output)
    assert [(row["name"], row["number"]) for row in found] == [(name, n) for name in NAMES for n in range(3)]
    assert [row["run"] for row in found if row["number"] == 2] == [runs[name] for name in NAMES]
    assert [row["run"] for row in found if row["number"] < 2] == ["first"] * 14


def test_killed_after_it_has_grown_and_before_it_says_so(tmp_path):
    output = tmp_path / "rows.jsonl"
    predict(output, Sampler(2))
    with pytest.raises(Killed):
        predict(output, Sampler(3, "second", killed_at=3))
    unfinished = everything(tmp_path)
    predict(output, Sampler(3, "third"))
    grown = output.read_bytes()
    # As if the record and the journals were still those of the unfinished run, with all prompts in them.
    (tmp_path / "rows.jsonl.settings").write_bytes(unfinished["rows.jsonl.settings"])
    (journal,) = (name for name in unfinished if "journal" in name)
    last = {"prompt_id": NAMES[6], "rows": [{"name": NAMES[6], "number": 2, "run": "third"}], "digest": ""}
    (tmp_path / journal).write_bytes(unfinished[journal] + json.dumps(last).encode() + b"\n")
    last = Sampler(3, "fourth")
    predict(output, last)
    assert last.drawn == []
    assert output.read_bytes() == grown
    assert json.loads((tmp_path / "rows.jsonl.settings").read_text())["finished"]


def test_what_does_not_grow(tmp_path):
    output = tmp_path / "rows.jsonl"
    predict(output, Sampler(3))
    with pytest.raises(ValueError, match="num_samples was 3, is 2"):
        predict(output, Sampler(2))
    with pytest.raises(ValueError, match=r"temperature was 1\.0, is 0\.5"):
        predict(output, Sampler(4, temperature=0.5))
    with pytest.raises(ValueError, match="num_samples was 3, is 4"):
        predict(output, Sampler(4), Names(NAMES[:6]))


def test_rows_that_were_removed_by_hand(tmp_path):
    output = tmp_path / "rows.jsonl"
    predict(output, Sampler(2))
    output.write_text("".join(line for line in output.open().readlines()[1:]))
    with pytest.raises(ValueError, match="holds 13 rows, which are not 2 of each of its prompts, so it cannot grow"):
        predict(output, Sampler(3))


class Pictures(Names):
    """Prompts of which one has no usable picture at times."""

    def __init__(self, broken=None):
        super().__init__()
        self.broken = broken

    def predict_dataloader(self):
        def collate(names):
            left_out = {name: "the picture is broken" for name in names if name == self.broken}
            prompts = [Prompt(name, "How many?", (), "2", "s", list, None) for name in names]
            return PromptBatch(prompts, [[] for _ in names], [[] for _ in names], left_out)

        left = [name for name in self.names if name not in self.completed_ids]
        return DataLoader(left, batch_size=2, collate_fn=collate)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


class OfPictures(Sampler):
    def predict_step(self, batch, batch_idx):
        return super().predict_step(batch.sample_ids, batch_idx)


def test_a_prompt_that_fails_while_the_output_grows(tmp_path):
    """All prompts keep equally many rows: the output stays as it is, and the prompt is tried once more."""
    output = tmp_path / "rows.jsonl"
    predict(output, OfPictures(2), Pictures())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"got no further ones.*start again.*1 prompts.*picture is broken"):
            predict(output, OfPictures(3, "second"), Pictures(NAMES[1]))
        assert read(output) == rows(["first"] * 2)
    last = OfPictures(3, "third")
    predict(output, last, Pictures())
    assert last.drawn == [(NAMES[1], 2)]
    assert [row["number"] for row in read(output)] == [0, 1, 2] * len(NAMES)


# ------------------------------------------------------------ by source


class Benchmarks(Names):
    """Prompts of two benchmarks, which do not stand together."""

    @property
    def prompt_sources(self):
        return {name: "even/ones" if int(name[-1]) % 2 == 0 else "odd" for name in self.names}


def test_an_output_for_each_source(tmp_path):
    output = tmp_path / "rollouts" / "{source}.jsonl"
    predict(output, Sampler(2), Benchmarks(NAMES[:3]))
    assert {path.name for path in output.parent.iterdir() if path.suffix == ".jsonl"} == {
        "even_ones.jsonl",
        "odd.jsonl",
    }
    assert [row["name"] for row in read(output.parent / "odd.jsonl")] == ["prompt 1"] * 2
    # Another job has one benchmark only, and more samples of it.
    odd = Benchmarks(["prompt 1"])
    predict(output, Sampler(4, "second"), odd)
    assert [row["run"] for row in read(output.parent / "odd.jsonl")] == ["first"] * 2 + ["second"] * 2
    assert len(read(output.parent / "even_ones.jsonl")) == 4
    # The first job again, with as many: only the other benchmark has something to do.
    last = Sampler(4, "third")
    predict(output, last, Benchmarks(NAMES[:3]))
    assert sorted(last.drawn) == [("prompt 0", 2), ("prompt 0", 3), ("prompt 2", 2), ("prompt 2", 3)]
    assert [row["number"] for row in read(output.parent / "even_ones.jsonl")] == [0, 1, 2, 3] * 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_of_outputs_for_each_source(tmp_path, order):
    output = tmp_path / "{source}.jsonl"
    for index in order:
        predict(output, Sampler(1, f"shard {index}"), Benchmarks(NAMES, Shard(index, 3)))
    assert [row["name"] for row in read(tmp_path / "even_ones.jsonl")] == NAMES[::2]
    assert [row["run"] for row in read(tmp_path / "odd.jsonl")] == ["shard 1", "shard 0", "shard 2"]
    assert not [path for path in tmp_path.iterdir() if "journal" in path.name]


def test_sources_that_are_not_known(tmp_path):
    with pytest.raises(TypeError, match="Names does not say which source a prompt is from"):
        predict(tmp_path / "{source}.jsonl", Sampler(1))
