"""Sampling in two processes with sharded weights: ranks that have no requests go on until the others have none."""

import json

import pytest
from distributed_ranks import run_ranks
from tiny_families import write_family

FAMILIES = ["internvl_qwen2", "qwen3_vl"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    for family in FAMILIES:
        write_family(family, folder / family)
    run_ranks("serving_jobs:main", [folder, FAMILIES], ranks=2, folder=folder, timeout=200)
    return json.loads((folder / "texts.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_sources_are_answered_as_by_one_process(family, results):
    """One rank has pictures and the other none, one has nothing at all, and texts are of different lengths."""
    found, expected = results[family]["found"], results[family]["expected"]
    assert [texts for texts, _ in found] == expected
    assert found[0][1] == found[1][1]  # as many forwards
    texts = {text for call in expected for of_rank in call for answers in of_rank for text, *_ in answers}
    assert len(texts) > 12
