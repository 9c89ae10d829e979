import pytest
import torch.distributed
from distributed_ranks import run_ranks

from datamodules.batching.ranks import same_on_all_ranks


def compare(values, folder):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    try:
        same_on_all_ranks(values[rank], "train rows")
        result = "same"
    except RuntimeError as error:
        result = str(error)
    (folder / str(rank)).write_text(result)


@pytest.mark.parametrize("values", [["x", "x", "x"], ["x", "y", "x"]])
def test_ranks_are_compared(tmp_path, values):
    run_ranks(f"{__file__}:compare", [values, tmp_path], ranks=len(values), folder=tmp_path / "ranks")
    results = {(tmp_path / str(rank)).read_text() for rank in range(len(values))}
    if len(set(values)) == 1:
        assert results == {"same"}
    else:
        (message,) = results
        assert message.startswith("the train rows differ between ranks: {'x': [0, 2], 'y': [1]}")


def test_a_single_process():
    same_on_all_ranks("x", "train rows")
