"""Comparison with the release: counts, composition and checksum, each told in words."""

import hashlib

import pytest
from released_benchmarks import TABLES

from datamodules.benchmarks import BENCHMARKS, BenchmarkQuestion
from datamodules.benchmarks.mmmu import DOMAINS
from datamodules.benchmarks.released import Release, release_mismatches


def questions(*levels):
    return [BenchmarkQuestion("b", str(n), "q", (), ("1",), metadata={"level": v}) for n, v in enumerate(levels)]


def test_what_differs_is_told(tmp_path):
    table = tmp_path / "t.tsv"
    table.write_bytes(b"index\n")
    md5 = hashlib.md5(b"index\n").hexdigest()
    release = Release(3, ("t.tsv",), md5, {"level": {"1": 2, "2": 1}})
    assert release_mismatches(release, questions("1", "2", "1"), table) == []
    assert release_mismatches(release, questions("1", "2"), table) == ["2 scored questions, the release has 3"]
    assert release_mismatches(release, questions("1", "3", ["1", "3"]), table) == [
        "questions by level: 2 0 instead of 1, 3 2 instead of 0"
    ]
    table.write_bytes(b"index\n\n")
    (difference,) = release_mismatches(release, questions("1", "2", "1"), table)
    assert difference.startswith("the md5 sum of the file is ")
    assert difference.endswith(f", the release has {md5}")
    assert release_mismatches(release, questions("1", "2", "1"), None) == []


def test_a_mismatch_is_a_warning_or_an_error_or_nothing(tmp_path, caplog):
    TABLES["LogicVista"](tmp_path)
    message = "not the released test split of LogicVista, so scores do not compare with published ones: 3 scored"
    BENCHMARKS["LogicVista"]().read(tmp_path)
    assert message in caplog.text
    with pytest.raises(ValueError, match=message):
        BENCHMARKS["LogicVista"](on_mismatch="error").read(tmp_path)
    caplog.clear()
    silent = BENCHMARKS["LogicVista"](on_mismatch="ignore")
    silent.read(tmp_path)
    assert silent.mismatches
    assert "not the released" not in caplog.text


def test_released_numbers_of_the_papers():
    """Totals that the benchmarks' papers and cards give, against the sums of the compositions here."""
    totals = {"MMMU": 900, "MathVista": 1000, "MathVision": 3040, "MathVerse-VO": 788, "DynaMath": 501 * 10}
    totals |= {"WeMath": 1740, "LogicVista": 447, "GSM8K": 1319, "MATH-500": 500, "GPQA-Diamond": 198}
    for name, total in totals.items():
        release = next(iter(BENCHMARKS[name].releases.values()))
        assert release.questions == total
        assert {sum(counts.values()) for counts in release.composition.values()} <= {total}
    keys = BENCHMARKS["WeMath"].releases["testmini"].composition["key"]
    assert keys["2steps_multi"] + keys["3steps_multi"] == 525
    assert sum(count for key, count in keys.items() if not key.endswith("multi")) == 1215
    assert sum(map(len, DOMAINS.values())) == 30
    assert len(DOMAINS) == 6
