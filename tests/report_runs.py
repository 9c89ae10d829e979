"""Small results of tests, as `visualprm test` writes them, with numbers made up by hand."""

import json

BENCHMARKS = ("MMMU", "MathVista")
READING = {"max_steps": 12, "question_text": "bare", "pictures": "ours", "white_space": "ours", "image_layout": "first"}


def estimate(value, width=0.1):
    return {"value": value, "low": value - width, "high": value + width}


def facts(**changes):
    return {
        "split": "test",
        "rules": ["ours"],
        "rules_versions": {"ours": 3},
        "questions_digest": "q1",
        "policies": ["P-8B"],
        "temperatures": [0.7],
        "mismatches": [],
    } | changes


def best_of_n(prm, *, ns=(1, 8), benchmarks=BENCHMARKS, critic="PRM", protocol=None, of_each=None, methods=None):
    """A report; ``prm`` is the accuracy of the reward model at the largest N, in [0, 1]."""
    values = {"pass_at_1": 0.25, "random_choice": 0.25, "self_consistency": 0.375, "prm_mean": prm, "pass_at_n": 1.0}
    values |= methods or {}
    columns = [*benchmarks, "all_questions", "overall"]

    def by_n(value):
        return {str(n): estimate(0.25 if n == 1 else value) for n in ns}

    return {
        "run": "test",
        "model": "models/m",
        "protocol": {"objective": "value", "threshold": 0.0} | READING | (protocol or {}),
        "ns": list(ns),
        "methods": list(values),
        "primary": "prm_mean",
        "critic": critic,
        "subsets": "all",
        "benchmarks": list(benchmarks),
        "overall_of": list(benchmarks),
        "accuracies": {column: {name: by_n(value) for name, value in values.items()} for column in columns},
        "differences": {
            column: {"prm_mean - pass_at_1": {str(n): estimate(0.0 if n == 1 else prm - 0.25) for n in ns}}
            for column in columns
        },
        "details": {name: {"facts": facts(**(of_each or {}))} for name in benchmarks},
    }


def process_bench(macro_f1, *, wrong_steps=2):
    sources = ("DynaMath", "MMMU", "MathVerse", "MathVision", "WeMath")
    pooled = {"macro_f1": estimate(macro_f1, 0.05), "correct_f1": estimate(0.75), "wrong_f1": estimate(0.5)}
    bins = [
        {"low": low / 15, "high": (low + 1) / 15, "steps": 0, "mean_score": None, "correct_share": None}
        for low in range(15)
    ]
    bins[3] |= {"steps": 2, "mean_score": 0.22, "correct_share": 0.0}
    bins[13] |= {"steps": 3, "mean_score": 0.9, "correct_share": 1.0}
    return {
        "is_released_set": False,
        "coverage": "5 solutions are not the released set.",
        "threshold": 0.5,
        "threshold_source": "fixed",
        "threshold_chosen_on": "",
        "overall": {
            "macro_f1": macro_f1,
            "auroc": 0.875,
            "correct_average_precision": 0.75,
            "wrong_average_precision": 0.5,
            "expected_calibration_error": 0.0625,
            "correct_steps": 3,
            "wrong_steps": wrong_steps,
            "neutral_steps": 1,
            "solutions": 5,
        },
        "sources": {name: {"macro_f1": 0.5 + place / 16} for place, name in enumerate(sources)},
        "by_step_index": [
            {
                "step_index": 0,
                "steps": 5,
                "wrong_steps": 2,
                "error_rate": 0.4,
                "wrong_recall": 0.5,
                "correct_recall": 1.0,
            }
        ],
        "calibration": bins,
        "thresholds": [{"pooled": pooled, "mean_of_sources": {"macro_f1": estimate(0.625)}}],
    }


STEPS = [
    {"sample_id": "test.jsonl:1", "source": "MMMU", "step_scores": [0.9, 0.2], "correctness": [1, -1]},
    {"sample_id": "test.jsonl:2", "source": "WeMath", "step_scores": [0.8, 0.6, 0.4], "correctness": [1, 0, -1]},
    {"sample_id": "test.jsonl:3", "source": "WeMath", "step_scores": [0.9], "correctness": [1]},
]


def candidates(text="a", benchmarks=BENCHMARKS):
    return [
        {
            "benchmark": name,
            "question_id": "1",
            "sample_index": index,
            "step_scores": [0.5],
            "response_score": 0.5,
            "response_digest": f"{text}{index}",
        }
        for name in benchmarks
        for index in range(8)
    ]


def write(folder, *, best=None, steps=None, scores=None, step_scores=None):
    """Write the results of a test to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, report in (("best_of_n_test.json", best), ("process_bench_test.json", steps)):
        if report is not None:
            (folder / name).write_text(json.dumps(report))
    for name, rows in (("candidate_scores.jsonl", scores), ("process_bench_scores.jsonl", step_scores)):
        if rows:
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def whole(folder, prm=0.5, **options):
    """A test of everything."""
    scores = options.pop("scores", candidates())
    return write(folder, best=best_of_n(prm, **options), steps=process_bench(0.625), scores=scores, step_scores=STEPS)
