import pytest
import torch.distributed
import torch.multiprocessing

from datamodules.process.ranks import same_on_all_ranks


def _compare(rank, store, values, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(values))
    try:
        same_on_all_ranks(values[rank], "train rows")
        result = "same"
    except RuntimeError as error:
        result = str(error)
    (folder / str(rank)).write_text(result)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("values", [["x", "x", "x"], ["x", "y", "x"]])
def test_ranks_are_compared(tmp_path, values):
    torch.multiprocessing.start_processes(
        _compare, (tmp_path / "store", values, tmp_path), len(values), start_method="fork"
    )
    results = {(tmp_path / str(rank)).read_text() for rank in range(len(values))}
    if len(set(values)) == 1:
        assert results == {"same"}
    else:
        (message,) = results
        assert message.startswith("the train rows differ between ranks: {'x': [0, 2], 'y': [1]}")


def test_a_single_process():
    same_on_all_ranks("x", "train rows")
