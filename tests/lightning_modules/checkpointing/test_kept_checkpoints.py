"""Folders made by hand; that a whole run keeps the right ones is tested with its callback."""

import pytest

from lightning_modules.checkpointing.folder import INDEX, REST
from lightning_modules.checkpointing.kept_checkpoints import BEST, LATEST, KeptCheckpoints, name_of, step_of


@pytest.fixture
def kept(tmp_path):
    """The last and the best of three checkpoints are to be kept; a fourth is half written."""
    for step in (5, 10, 15, 20):
        folder = tmp_path / name_of(step)
        folder.mkdir()
        (folder / INDEX).touch()
        if step < 20:
            (folder / REST).touch()
    found = KeptCheckpoints(tmp_path, keep_last=1, keep_best=1, mode="max")
    found.scores = {name_of(5): 0.5, name_of(10): 0.25}
    return found


def test_names():
    assert name_of(1200) == "step_00001200"
    assert step_of(name_of(123456789)) == 123456789


def test_the_last_and_the_best_are_kept(kept):
    assert kept.names == [name_of(5), name_of(10), name_of(15)]
    kept.point(LATEST, name_of(15))
    kept.point_to_best()
    kept.prune(15)
    assert kept.names == [name_of(5), name_of(15)]
    assert [kept.linked(link).name for link in (LATEST, BEST)] == [name_of(15), name_of(5)]
    assert kept.scores == {name_of(5): 0.5}
    # What a link points to stays, whatever the numbers say.
    kept.scores = {}
    kept.prune(15)
    assert kept.names == [name_of(5), name_of(15)]
    (kept.folder / BEST).unlink()
    kept.prune(15)
    assert kept.names == [name_of(15)]


@pytest.mark.parametrize(("mode", "order"), [("max", [10, 5, 15]), ("min", [15, 10, 5])])
def test_of_equal_scores_the_later_is_the_better(kept, mode, order):
    kept.mode = mode
    kept.scores = {name_of(5): 0.5, name_of(10): 0.5, name_of(15): 0.25}
    assert kept.best == [name_of(step) for step in order]


def test_later_ones_are_set_aside(kept, tmp_path):
    kept.point(BEST, name_of(15))
    kept.set_aside_later_than(name_of(5))
    assert kept.names == [name_of(5)]
    assert sorted(path.name for path in (tmp_path / f"later_than_{name_of(5)}").iterdir()) == [name_of(10), name_of(15)]
    assert not (tmp_path / BEST).is_symlink()
    assert kept.holds((tmp_path / name_of(5)).resolve())
    assert not kept.holds((tmp_path / f"later_than_{name_of(5)}" / name_of(10)).resolve())
