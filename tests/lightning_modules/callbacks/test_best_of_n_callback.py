import json

import numpy as np
import pytest
import tiny_evaluation
import torch
from distributed_ranks import run_ranks
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_evaluation import CANDIDATES, Reader, evaluation_loaders, make_trainer, write_world
from torch.utils.data import DataLoader

from lightning_modules.callbacks.best_of_n import BestOfN
from lightning_modules.callbacks.candidate_scores import CANDIDATE_SCORES, response_digest
from lightning_modules.metrics.selection.votes import majority_index
from lightning_modules.protocol import Protocol
from lightning_modules.scoring.scored_batch import ScoredBatch

TRAINING = DataLoader(torch.zeros(4, 1), batch_size=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of training and a test in one process."""
    folder = tmp_path_factory.mktemp("single")
    rollouts = write_world(folder)
    tiny_evaluation.main(folder, devices=1)
    return folder, rollouts


def read_json(path):
    return json.loads(path.read_text())


def accuracies_by_hand(rollouts, pick):
    """LogicVista's accuracy and DynaMath's share of seeds that are right in all ten variants."""
    questions = {}
    for rollout in rollouts:
        questions.setdefault((rollout.benchmark, rollout.question_id), []).append(rollout)
    logic = [pick(group) for (name, _), group in questions.items() if name == "LogicVista"]
    seeds = {}
    for (name, question_id), group in questions.items():
        if name == "DynaMath":
            # index = 10 * seed + variant, variants from 1 to 10
            seeds.setdefault((int(question_id) - 1) // 10, []).append(pick(group))
    assert all(len(variants) == 10 for variants in seeds.values())
    return np.mean(logic), np.mean([np.prod(variants) for variants in seeds.values()])


def best_by(reduce):
    def pick(group):
        power = 1.5  # after the two training steps of the first epoch
        scores = [reduce([float(step) ** power for step in rollout.response.split("\n\n")]) for rollout in group]
        return float(group[int(np.argmax(scores))].is_correct)

    return pick


def voted(group):
    answers = [rollout.extracted_answer for rollout in group]
    known = list(dict.fromkeys(answers))
    return float(
        group[majority_index([-1 if answer is None else known.index(answer) for answer in answers])].is_correct
    )


@pytest.mark.parametrize(
    ("method", "pick"),
    [
        ("prm_mean", best_by(np.mean)),
        ("prm_min", best_by(min)),
        ("prm_product", best_by(np.prod)),
        ("prm_last", best_by(lambda scores: scores[-1])),
        ("self_consistency", voted),
        ("pass_at_1", lambda group: np.mean([rollout.is_correct for rollout in group])),
        ("pass_at_n", lambda group: float(any(rollout.is_correct for rollout in group))),
    ],
)
def test_report_against_the_rollout_file(run, method, pick):
    folder, rollouts = run
    stored = read_json(folder / "run" / "best_of_n_epoch0.json")
    logic, dyna = accuracies_by_hand(rollouts, pick)
    value = {column: methods[method]["4"]["value"] for column, methods in stored["accuracies"].items()}
    assert value["LogicVista"] == pytest.approx(logic)
    assert value["DynaMath"] == pytest.approx(dyna)
    assert value["overall"] == pytest.approx((logic + dyna) / 2)


@pytest.mark.parametrize(
    ("method", "pick"),
    [("prm_mean", best_by(np.mean)), ("pass_at_1", lambda group: np.mean([rollout.is_correct for rollout in group]))],
)
def test_secondary_metrics_against_the_rollout_file(run, method, pick):
    folder, rollouts = run
    details = read_json(folder / "run" / "best_of_n_epoch0.json")["details"]
    questions = {}
    for rollout in rollouts:
        questions.setdefault((rollout.benchmark, rollout.question_id), []).append(rollout)
    logic, dyna = accuracies_by_hand(rollouts, pick)
    found = details["LogicVista"]["metrics"][method]
    assert found["accuracy"] == found["skill/spatial"] == pytest.approx(logic)
    found = details["DynaMath"]["metrics"][method]
    average = np.mean([pick(group) for (name, _), group in questions.items() if name == "DynaMath"])
    assert found["worst_case_accuracy"] == pytest.approx(dyna)
    assert found["average_accuracy"] == found["subject/algebra"] == found["level/1"] == pytest.approx(average)
    assert found["robustness"] == pytest.approx(dyna / average)
    facts = details["DynaMath"]["facts"]
    assert (details["DynaMath"]["questions"], details["DynaMath"]["units"], details["DynaMath"]["n"]) == (20, 2, 4)
    assert facts["rules"] == ["unknown"]  # the rollouts do not say
    assert facts["mismatches"] == ["20 scored questions, the release has 5010"]
    assert "gold_inside_text" in facts["official_differences"]
    assert facts["rules_versions"] == {}  # of rules that nobody knows
    own = {(rollout.policy, rollout.temperature) for rollout in rollouts if rollout.benchmark == "DynaMath"}
    assert (facts["policies"], facts["temperatures"]) == tuple([value] for value in next(iter(own)))
    assert facts["questions_digest"] != details["LogicVista"]["facts"]["questions_digest"]


def test_unparsed_share_of_the_picked_responses(run):
    folder, rollouts = run
    details = read_json(folder / "run" / "best_of_n_epoch0.json")["details"]
    groups = {}
    for rollout in rollouts:
        if rollout.benchmark == "LogicVista":
            groups.setdefault(rollout.question_id, []).append(rollout)
    unanswered = [np.mean([rollout.extracted_answer is None for rollout in group]) for group in groups.values()]
    assert 0 < np.mean(unanswered) < 1
    assert details["LogicVista"]["metrics"]["pass_at_1"]["unparsed_share"] == pytest.approx(np.mean(unanswered))


def test_tables_of_the_benchmarks_are_printed_by_test_alone(run, tmp_path, capsys):
    world, _ = run
    trainer, loaders = quiet_run(world, tmp_path)
    trainer.validate(Reader(), loaders, verbose=False)
    assert "robustness" not in capsys.readouterr().out
    trainer.test(Reader(), loaders, verbose=False)
    printed = capsys.readouterr().out
    assert printed.index("DynaMath, split sample, N = 4 (%)") < printed.index("Best-of-4 accuracy (%)")
    for text in ("robustness", "unparsed_share", "Rules: unknown.", "the release has 5010 questions"):
        assert text in printed
    assert "robustness" in (tmp_path / "run" / "best_of_n_validate.md").read_text()


def test_files_of_a_run(run):
    folder, _ = run
    names = {path.name for path in (folder / "run").iterdir() if not path.name.startswith(("events", "hparams"))}
    assert names == {
        "best_of_n_epoch0.json",
        "best_of_n_epoch0.md",
        "best_of_n_epoch1.json",
        "best_of_n_epoch1.md",
        "best_of_n_test.json",
        "best_of_n_test.md",
        "best_of_n_test.png",
        "candidate_scores.jsonl",
        "process_bench_scores.jsonl",
        *(
            f"{name}_{label}.{kind}"
            for name in ("process_bench", "process_bench_oracle")
            for label in ("epoch0", "epoch1", "test")
            for kind in ("json", "md")
        ),
        "process_bench_test.png",
        "process_bench_oracle_test.png",
    }
    stored = read_json(folder / "run" / "best_of_n_epoch1.json")
    assert (stored["run"], stored["epoch"], stored["global_step"]) == ("epoch1", 1, 4)
    assert stored["protocol"]["question_text"] == "bare"
    assert stored["coverage"]["LogicVista"]["questions"] == 7
    assert (stored["coverage"]["DynaMath"]["questions"], stored["coverage"]["DynaMath"]["units"]) == (20, 2)
    # The test runs with the weights of the last epoch.
    assert read_json(folder / "run" / "best_of_n_test.json")["accuracies"] == stored["accuracies"]


def test_tensorboard_holds_scalars_tables_and_figure(run):
    folder, _ = run
    events = EventAccumulator(str(folder / "run"), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    stored = [read_json(folder / "run" / f"best_of_n_epoch{epoch}.json") for epoch in (0, 1)]
    for column in ("LogicVista", "DynaMath", "all_questions", "overall"):
        values = [event.value for event in events.Scalars(f"best_of_n/{column}")]
        expected = [report["accuracies"][column]["prm_mean"]["4"]["value"] for report in stored]
        assert values == pytest.approx([*expected, expected[-1]])  # the last is the test's
    methods = [event.value for event in events.Scalars("best_of_n_methods/overall/self_consistency")]
    assert methods == pytest.approx([stored[0]["accuracies"]["overall"]["self_consistency"]["4"]["value"]] * 3)
    assert [event.step for event in events.Images("best_of_n/accuracy_against_n")] == [2, 4, 4]
    assert events.Images("best_of_n/accuracy_against_n")[0].encoded_image_string.startswith(b"\x89PNG")
    (text, *_) = events.Tensors("best_of_n/tables/text_summary")[0].tensor_proto.string_val
    assert text.decode() == (folder / "run" / "best_of_n_epoch0.md").read_text()


def test_checkpoint_follows_the_monitored_scalar(run):
    folder, _ = run
    values = [
        read_json(folder / "run" / f"best_of_n_epoch{epoch}.json")["accuracies"]["overall"]["prm_mean"]["4"]["value"]
        for epoch in (0, 1)
    ]
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    (state,) = [state for name, state in checkpoint["callbacks"].items() if name.startswith("ModelCheckpoint")]
    assert state["best_model_score"].item() == pytest.approx(max(values))


def test_candidate_scores_serve_as_outcome_scores(run, tmp_path, capsys):
    folder, rollouts = run
    path = folder / "run" / CANDIDATE_SCORES
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 27 * CANDIDATES
    row = next(
        row for row in rows if (row["benchmark"], row["question_id"], row["sample_index"]) == ("DynaMath", "12", 2)
    )
    (rollout,) = [r for r in rollouts if (r.benchmark, r.question_id, r.sample_index) == ("DynaMath", "12", 2)]
    scores = [float(step) ** 2 for step in rollout.response.split("\n\n")]
    assert row["step_scores"] == pytest.approx(scores, abs=1e-6)
    assert row["response_score"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert row["response_digest"] == response_digest(rollout.response)
    options = {"outcome_scores": str(path), "output_dir": str(tmp_path / "out"), "aggregations": ["min"]}
    trainer = make_trainer(tmp_path, best_of_n=options)
    (metrics,) = trainer.validate(Reader(), evaluation_loaders(folder), verbose=False)[:1]
    stored = read_json(tmp_path / "out" / "best_of_n_validate.json")
    test = read_json(folder / "run" / "best_of_n_test.json")
    assert stored["accuracies"]["overall"]["outcome"] == test["accuracies"]["overall"]["prm_mean"]
    assert list(stored["differences"]["overall"])[1] == "prm_min - outcome"
    assert metrics["best_of_n/overall"] == pytest.approx(stored["accuracies"]["overall"]["prm_min"]["4"]["value"])
    printed = capsys.readouterr().out
    assert "Best-of-4 accuracy (%)" in printed
    assert "PRM (min) − ORM" in printed
    assert "Step judgement on VisualProcessBench" in printed


class Advantage(Reader):
    """Scores from -1 to 1: what the reader scores, stretched."""

    def __init__(self):
        super().__init__()
        self.protocol = Protocol("advantage")

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        outputs = super().validation_step(batch, batch_idx, dataloader_idx)
        return ScoredBatch([[2 * scores - 1 for scores in of_sample] for of_sample in outputs.step_scores])

    test_step = validation_step


def test_negative_scores_have_no_product(run, tmp_path):
    """Stretched scores pick the same responses, but for the product, which is left out or refused."""
    folder, _ = run
    loaders = evaluation_loaders(folder)[1:-1]  # of the benchmarks
    stored = []
    for module in (Reader(), Advantage()):
        callback = BestOfN(ns=(4,), bootstrap=50, output_dir=str(tmp_path / type(module).__name__))
        trainer = make_trainer(tmp_path, logger=False, callbacks=[callback])
        trainer.test(module, loaders, verbose=False)
        stored.append(read_json(tmp_path / type(module).__name__ / "best_of_n_test.json")["accuracies"]["overall"])
    assert stored[0].keys() - stored[1].keys() == {"prm_product"}
    assert stored[1] == {name: values for name, values in stored[0].items() if name != "prm_product"}
    lines = (tmp_path / "Advantage" / CANDIDATE_SCORES).read_text().splitlines()
    assert min(score for line in lines for score in json.loads(line)["step_scores"]) < 0
    asked = BestOfN(aggregations=["mean", "product"])
    with pytest.raises(ValueError, match=r"aggregations \['product'\] need scores in \[0, 1\].*'advantage'"):
        make_trainer(tmp_path, logger=False, callbacks=[asked]).validate(Advantage(), loaders, verbose=False)


def test_a_model_of_whole_responses_has_one_aggregation(run, tmp_path):
    """All five would give its one score; they are reported where somebody asks for them."""
    folder, _ = run
    loaders = evaluation_loaders(folder)[1:-1]  # of the benchmarks
    module = Reader()
    module.protocol = Protocol("outcome")
    methods = {}
    for asked in (None, ("min", "max")):
        callback = BestOfN(ns=(4,), aggregations=asked, bootstrap=50, output_dir=str(tmp_path / "out"))
        make_trainer(tmp_path, logger=False, callbacks=[callback]).validate(module, loaders, verbose=False)
        stored = read_json(tmp_path / "out" / "best_of_n_validate.json")["accuracies"]["overall"]
        methods[asked] = {name for name in stored if name.startswith("prm_")}
    assert methods == {None: {"prm_mean"}, ("min", "max"): {"prm_min", "prm_max"}}


def test_two_processes_give_the_table_of_one(run, tmp_path):
    """7 questions and 5 solutions over 2 processes: the sampler hands one of each out twice."""
    folder, _ = run
    write_world(tmp_path)
    run_ranks(f"{tiny_evaluation.__file__}:main", [tmp_path, 2], ranks=2, folder=tmp_path / "ranks")
    for name in (
        "best_of_n_epoch0",
        "best_of_n_epoch1",
        "best_of_n_test",
        "process_bench_test",
        "process_bench_epoch0",
        "process_bench_oracle_test",
    ):
        assert read_json(tmp_path / "run" / f"{name}.json") == read_json(folder / "run" / f"{name}.json")
    assert (tmp_path / "run" / CANDIDATE_SCORES).read_bytes() == (folder / "run" / CANDIDATE_SCORES).read_bytes()
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    # Each case is shown by rank zero, whichever rank has scored it; at each epoch end and in the test.
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    cases = {tag: len(events.Images(tag)) for tag in events.Tags()["images"] if tag.startswith("case_studies/")}
    names = ["DynaMath_13", "DynaMath_18", "LogicVista_1", "LogicVista_5"]
    assert cases == {f"case_studies/{name}": 3 for name in names}


def quiet_run(world, folder, **options):
    trainer = make_trainer(folder, logger=CSVLogger(folder, name="", version="run"), **options)
    return trainer, evaluation_loaders(world)


def test_sanity_check_leaves_no_trace(run, tmp_path):
    world, _ = run
    trainer, loaders = quiet_run(world, tmp_path, num_sanity_val_steps=-1, limit_train_batches=1, max_epochs=1)
    trainer.fit(Reader(), TRAINING, loaders)
    assert {path.name for path in (tmp_path / "run").glob("best_of_n*.json")} == {"best_of_n_epoch0.json"}
    assert read_json(tmp_path / "run" / "best_of_n_epoch0.json")["coverage"]["LogicVista"]["questions"] == 7


def test_validation_within_an_epoch_keeps_every_report(run, tmp_path):
    world, _ = run
    trainer, loaders = quiet_run(world, tmp_path, val_check_interval=1, max_epochs=1)
    trainer.fit(Reader(), TRAINING, loaders)
    names = sorted(path.name for path in (tmp_path / "run").glob("best_of_n*.json"))
    assert names == ["best_of_n_epoch0_step1.json", "best_of_n_epoch0_step2.json"]


def test_limited_batches_leave_parts_of_units_out(run, tmp_path):
    """One batch of three questions holds no whole DynaMath seed."""
    world, _ = run
    trainer, loaders = quiet_run(world, tmp_path, limit_val_batches=1)
    with pytest.warns(UserWarning, match="DynaMath: 3 of 3 questions are left out"):
        trainer.validate(Reader(), loaders, verbose=False)
    stored = read_json(tmp_path / "run" / "best_of_n_validate.json")
    assert stored["benchmarks"] == ["LogicVista"]
    assert stored["coverage"]["LogicVista"]["questions"] == 3


def test_fast_development_run_writes_nothing(run, tmp_path, monkeypatch):
    world, _ = run
    monkeypatch.chdir(tmp_path)
    trainer, loaders = quiet_run(world, tmp_path, fast_dev_run=True, callbacks=[BestOfN(ns=(1, 4), output_dir="out")])
    with pytest.warns(UserWarning, match="left out"):
        trainer.fit(Reader(), TRAINING, loaders)
    trainer.test(Reader(), loaders, verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_impossible_numbers_of_candidates_are_dropped_with_a_warning(run, tmp_path):
    world, _ = run
    trainer, loaders = quiet_run(world, tmp_path, best_of_n={"ns": (2, 4, 8, 16)})
    with pytest.warns(UserWarning, match=r"of ns = \[2, 4, 8, 16\] only \[2, 4\]"):
        trainer.validate(Reader(), loaders, verbose=False)
    trainer, loaders = quiet_run(world, tmp_path, best_of_n={"ns": (8,)})
    with pytest.raises(ValueError, match="hold 4 candidates a question; ns asks for"):
        trainer.validate(Reader(), loaders, verbose=False)


def test_all_powers_of_two_are_reported_by_default(run, tmp_path):
    """And the number of candidates that there are, if it is none."""
    world, _ = run
    for most, expected in ((4, ["1", "2", "4"]), (3, ["1", "2", "3"]), (1, ["1"])):
        callback = BestOfN(bootstrap=20, output_dir=str(tmp_path / str(most)))
        trainer = make_trainer(tmp_path, logger=False, callbacks=[callback])
        trainer.test(Reader(), evaluation_loaders(world, most)[1:-1], verbose=False)
        stored = read_json(tmp_path / str(most) / "best_of_n_test.json")["accuracies"]["overall"]["self_consistency"]
        assert list(stored) == expected


class NotANumber(Reader):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        outputs = super().validation_step(batch, batch_idx, dataloader_idx)
        if dataloader_idx == 1:
            outputs.step_scores[0][2][0] = float("nan")
        return outputs


def test_score_that_is_not_a_number_is_named(run, tmp_path):
    world, _ = run
    trainer, loaders = quiet_run(world, tmp_path)
    with pytest.raises(ValueError, match=r"DynaMath question '1', candidate 2: step 0 has the score nan"):
        trainer.validate(NotANumber(), loaders, verbose=False)


def test_nothing_to_report_is_said(run, tmp_path):
    world, _ = run
    trainer, loaders = quiet_run(world, tmp_path)
    with pytest.warns(UserWarning, match="BestOfN has nothing to report"):
        trainer.validate(Reader(), [loaders[0], loaders[-1]], verbose=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ns": []}, "positive numbers of candidates"),
        ({"ns": [0, 4]}, r"got \[0, 4\]"),
        ({"aggregations": ["median"]}, "some of mean, min, max, last, product"),
        ({"bootstrap": 0}, "at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BestOfN(**options)
