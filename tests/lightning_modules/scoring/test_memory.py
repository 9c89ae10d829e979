import itertools
from types import SimpleNamespace

import torch
import torch.distributed as dist
from distributed_ranks import run_ranks
from hypothesis import given
from hypothesis import strategies as st
from small_models import make_model, make_prompt
from transformers import DynamicCache

from datamodules.conversation.candidates import EncodedCandidates
from lightning_modules.model.step_head import StepHead
from lightning_modules.scoring.candidates import score_candidates
from lightning_modules.scoring.memory import bytes_per_token, most_on_any_rank, split_into_groups, tokens_at_once

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 200))
def test_groups_keep_to_the_bound(lengths, most_tokens):
    groups = split_into_groups(lengths, most_tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert group == sorted(group)
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= most_tokens
    # Like lengths stand together: each group's longest is at most the shortest of the group before.
    for before, after in itertools.pairwise(groups):
        assert min(lengths[index] for index in before) >= max(lengths[index] for index in after)


def test_tokens_are_spread_over_the_groups():
    """Ten candidates of 10 tokens in groups of at most 80: five and five rather than eight and two."""
    assert [len(group) for group in split_into_groups([10] * 10, 80)] == [5, 5]


@given(LENGTHS)
def test_without_a_bound_there_is_one_group(lengths):
    assert split_into_groups(lengths, None) == [list(range(len(lengths)))]


def test_bytes_of_a_token():
    """Hidden 10, MLP 30, 4 query heads and 2 key heads of 8, by hand: 40 + 256 + 64 + 90 numbers."""
    config = SimpleNamespace(
        hidden_size=10, intermediate_size=30, num_attention_heads=4, num_key_value_heads=2, head_dim=8
    )
    assert bytes_per_token(config, torch.float32) == 4 * 450
    assert bytes_per_token(config, torch.bfloat16) == 2 * 450


def test_the_cached_prefix_counts():
    model = make_model("qwen2")
    cache = DynamicCache()
    # Three layers of keys and values: 2 rows x 2 heads x 5 tokens x 8 numbers of four bytes.
    for layer in range(3):
        cache.update(torch.zeros(2, 2, 5, 8), torch.zeros(2, 2, 5, 8), layer)
    held = 3 * 2 * 2 * 2 * 5 * 8 * 4
    one = bytes_per_token(model.config, torch.float32)
    assert tokens_at_once((held + 7 * one) / 2**30, model, cache) == 7
    assert tokens_at_once((held - 1) / 2**30, model, cache) == 1


def test_without_a_budget_a_cpu_takes_64_mebibytes_or_512_tokens_at_once():
    model, cache = make_model("qwen2"), DynamicCache()
    assert tokens_at_once(None, model, cache) == 2**26 // bytes_per_token(model.config, torch.float32)
    model.config.intermediate_size = 10**6  # 12 MB a token
    assert tokens_at_once(None, model, cache) == 512
    with torch.device("meta"):
        assert tokens_at_once(None, make_model("qwen2"), cache) is None


def test_in_one_process_there_is_nothing_to_agree_on():
    assert most_on_any_rank(3, torch.device("cpu")) == 3


def encode(name, model, counts):
    """A question with as many candidates as ``counts`` has numbers, each of so many steps of two tokens."""
    generator = torch.Generator().manual_seed(sum(counts))
    suffixes = [torch.randint(10, 60, (2 * count,), generator=generator) for count in counts]
    return EncodedCandidates(
        make_prompt(name, model, [], [20, 21, 22]), suffixes, [2 * torch.arange(1, c + 1) - 1 for c in counts]
    )


# Of two ranks: the numbers of steps of each question's candidates.
BATCHES = {0: [[3, 1, 2, 4, 1], [2, 2]], 1: [[1]]}


def scored_on_a_rank(folder):
    """Runs in a process of its own; scores go into a file, with the number of forwards."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results = {}
    for name, budget in (("qwen2", None), ("qwen2", 1e-9), ("mistral", None)):
        model = make_model(name)
        forwards = []

        def meet(*_, forwards=forwards):
            # As the weights of a sharded model are gathered: every rank has to take part in every forward.
            dist.all_reduce(torch.ones(1))
            forwards.append(1)

        model.model.register_forward_pre_hook(meet)
        groups = [encode(name, model, counts) for counts in BATCHES[rank]]
        with torch.no_grad():
            found = score_candidates(model, StepHead(model, [11, 12]), groups, 0, budget)
        results[f"{name} {budget}"] = (len(forwards), found)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_with_different_batches_run_the_same_number_of_forwards(tmp_path):
    """The larger batch has 7 candidates; with a tiny budget, each of them is a group."""
    run_ranks(f"{__file__}:scored_on_a_rank", [str(tmp_path)], ranks=2, folder=tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    counts = {setting: forwards for setting, (forwards, _) in first.items()}
    assert counts == {setting: forwards for setting, (forwards, _) in second.items()}
    assert counts == {"qwen2 None": 2, "qwen2 1e-09": 1 + 7, "mistral None": 7}
    for rank, results in enumerate((first, second)):
        for setting, (_, found) in results.items():
            name = setting.split()[0]
            model = make_model(name)
            groups = [encode(name, model, batch) for batch in BATCHES[rank]]
            with torch.no_grad():
                expected = score_candidates(model, StepHead(model, [11, 12]), groups, 0)
            for one, other in zip(found, expected, strict=True):
                for logits, alone in zip(one, other, strict=True):
                    torch.testing.assert_close(logits, alone, atol=1e-4, rtol=0)
