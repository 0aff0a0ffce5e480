"""Memory and operations of small computations, counted by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpo.planning.footprint import Footprint, footprint, module_bytes, recomputing

FLOAT, HALF = 4, 2  # bytes


def layers(*widths: int) -> nn.Sequential:
    """Linear, ReLU, Linear, ReLU …, on the meta device."""
    with torch.device("meta"):
        modules = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*modules)


def learn(network: nn.Module) -> Any:
    return lambda x: network(x).sum().backward()


def rows(count: int, width: int) -> Tensor:
    return torch.empty(count, width, device="meta")


def test_without_gradients_two_neighbours_are_alive() -> None:
    """Each layer's output lives until the next one's is there; the input is not counted."""
    with torch.no_grad():
        found = footprint(layers(4, 8, 8, 8), [rows(1, 4)])
    assert found.peak() == 2 * 8 * FLOAT
    assert found.peak(5) == 5 * found.peak()


def test_for_the_backward_pass_every_activation_is_kept() -> None:
    """ReLU and the next layer share what they keep; a layer's own output is needed by nobody."""
    network = layers(4, 8, 8, 8)
    kept = footprint(network, [rows(1, 4)])  # the graph is alive until the end
    # the first two ReLUs', and the last layer's own beside the last ReLU's
    assert kept.peak() == (2 + 2) * 8 * FLOAT


def test_gradients_do_not_grow_with_the_batch() -> None:
    network = layers(64, 32, 16)
    found = footprint(learn(network), [rows(1, 64)], [network])
    gradients = (64 * 32 + 32 + 32 * 16 + 16) * FLOAT
    assert max(fixed for fixed, _ in found.moments) == gradients
    assert all(p.grad is None for p in network.parameters())
    large = footprint(learn(network), [rows(1000, 64)], [network])
    # the loss and its gradient are one number each, but are taken to grow
    assert found.peak(1000) == large.peak() + 999 * 2 * FLOAT
    assert found.bound(7) >= found.peak(7)


def test_operations_of_a_linear_layer() -> None:
    network = layers(6, 10)
    with torch.no_grad():
        forward = footprint(network, [rows(3, 6)]).flops
    assert forward == 2 * 3 * 6 * 10
    # backward: the weight's gradient costs as much again, the input needs none
    assert footprint(learn(network), [rows(3, 6)], [network]).flops == 2 * forward


def attend(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


def test_attention_makes_no_square() -> None:
    tokens, width = 4096, 8
    x = torch.empty(1, 2, tokens, width, device="meta")
    output = 2 * tokens * width * FLOAT
    with torch.no_grad():
        found = footprint(attend, [x])
    assert output <= found.peak() <= output + 64  # the state of the random generator
    assert found.flops == 2 * 2 * (2 * tokens * tokens * width)  # two heads; q k and its use on v
    kept = footprint(attend, [x.requires_grad_()])
    assert output + 2 * tokens * FLOAT <= kept.peak() <= output + 2 * tokens * FLOAT + 64


def test_autocast_casts_inputs_and_keeps_learning_weights() -> None:
    network = layers(100, 50)[0]
    found = footprint(network, [rows(2, 100)], autocast=torch.bfloat16)
    weights = (100 * 50 + 50) * HALF
    assert found.moments[0] == (weights, (2 * 100 + 2 * 50) * HALF)
    frozen = layers(100, 50)[0].to(torch.bfloat16).requires_grad_(False)
    assert footprint(frozen, [rows(2, 100)], autocast=torch.bfloat16).moments[0][0] == 0


def test_autocast_normalises_in_float32() -> None:
    with torch.device("meta"):
        norm = nn.LayerNorm(16).requires_grad_(False)
        x = torch.empty(3, 16, dtype=torch.bfloat16)
    with torch.no_grad():
        assert footprint(norm, [x], autocast=torch.bfloat16).peak() >= 2 * 3 * 16 * FLOAT


def test_recomputing_keeps_less_and_computes_more() -> None:
    network = layers(*[32] * 9)
    again = recomputing(None)

    plain = footprint(learn(network), [rows(1, 32)], [network])
    blocks = nn.Sequential(*(network[k : k + 4] for k in range(0, 16, 4)))

    def by_blocks(x: Tensor) -> None:
        for block in blocks:
            x = again(block, x)
        x.sum().backward()

    saved = footprint(by_blocks, [rows(1, 32)], [network])
    assert saved.peak(1000) < plain.peak(1000)
    assert saved.flops == plain.flops + 8 * 2 * 32 * 32  # each of 8 layers forward once more


def test_views_and_weights_are_no_new_memory() -> None:
    network = layers(5, 7)[0]
    with torch.no_grad():
        assert footprint(lambda x: network.weight.t()[:2], [rows(1, 5)]).peak() == 0
        assert footprint(lambda x: x.view(5).add_(1), [rows(1, 5)]).peak() == 0


def test_nothing_at_all() -> None:
    assert Footprint((), 0).peak(3) == Footprint((), 0).bound(3) == 0
    assert module_bytes(None, 4) == 0
