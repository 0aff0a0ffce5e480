"""Encoded prompts stay together, row by row."""

from __future__ import annotations

import pytest
import torch

from rpo.models.conditions import Conditions

TOKENS, POOLED = torch.arange(24.0).view(4, 3, 2), torch.arange(20.0).view(4, 5)


@pytest.mark.parametrize("rows", [slice(1, 3), [2, 0, 2], torch.tensor([3, 3])])
def test_rows_are_chosen_from_all_tensors(rows) -> None:
    chosen = Conditions(TOKENS, POOLED)[rows]
    assert torch.equal(chosen.tokens, TOKENS[rows])
    assert torch.equal(chosen.pooled, POOLED[rows])
    assert len(chosen) == len(TOKENS[rows])
    assert Conditions(TOKENS)[rows].pooled is None


@pytest.mark.parametrize("row", [1, torch.tensor(1)])
def test_a_single_row_is_not_a_batch(row) -> None:
    with pytest.raises(TypeError, match="slice"):
        Conditions(TOKENS)[row]


def test_one_prompt_for_many() -> None:
    many = Conditions(TOKENS, POOLED)[1:2].expand(3)
    assert torch.equal(many.tokens, TOKENS[[1, 1, 1]])
    assert torch.equal(many.pooled, POOLED[[1, 1, 1]])
    with pytest.raises(ValueError, match="only one prompt"):
        Conditions(TOKENS).expand(8)


def test_joined_in_order() -> None:
    whole = Conditions(TOKENS, POOLED)
    joined = Conditions.cat([whole[2:], whole[:1]])
    assert torch.equal(joined.tokens, TOKENS[[2, 3, 0]])
    assert torch.equal(joined.pooled, POOLED[[2, 3, 0]])
    assert Conditions.cat([Conditions(TOKENS)] * 2).pooled is None
    with pytest.raises(ValueError, match="different model families"):
        Conditions.cat([whole, Conditions(TOKENS)])


@pytest.mark.parametrize("pooled", [None, POOLED])
def test_saved_by_name(pooled) -> None:
    tensors = Conditions(TOKENS, pooled).tensors()
    assert set(tensors) == ({"tokens"} if pooled is None else {"tokens", "pooled"})
    again = Conditions.from_tensors(tensors)
    assert again.tokens is TOKENS
    assert again.pooled is pooled
    with pytest.raises(TypeError):
        Conditions.from_tensors({"tokens": TOKENS, "other": TOKENS})


def test_lengths_stay_with_their_rows_whatever_the_numbers_become() -> None:
    lengths = torch.tensor([3, 1, 2, 3])
    whole = Conditions(TOKENS, lengths=lengths)
    assert torch.equal(whole[torch.tensor([3, 1])].lengths, lengths[[3, 1]])
    assert torch.equal(whole[1:2].expand(3).lengths, torch.tensor([1, 1, 1]))
    joined = Conditions.cat([whole[2:], whole[:1]])
    assert torch.equal(joined.lengths, lengths[[2, 3, 0]])
    with pytest.raises(ValueError, match="different model families"):
        Conditions.cat([whole, Conditions(TOKENS)])
    assert set(whole.tensors()) == {"tokens", "lengths"}
    assert torch.equal(Conditions.from_tensors(whole.tensors()).lengths, lengths)
    moved = whole.to(torch.bfloat16).to("meta")
    assert moved.tokens.dtype == torch.bfloat16
    assert moved.lengths is lengths  # on the CPU, where rows are cut


def test_moves() -> None:
    moved = Conditions(TOKENS, POOLED).to("meta")
    assert moved.tokens.device.type == moved.pooled.device.type == "meta"
