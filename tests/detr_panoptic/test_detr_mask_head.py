"""Attention maps and mask head against the definition of each, query by query."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from detr_panoptic.mask_head import AttentionMaps, MaskHead

DIM, HEADS, HEIGHT, WIDTH, QUERIES = 128, 8, 3, 4, 5
FINE = ((40, 5, 8), (24, 10, 16), (16, 20, 31))  # channels, rows, columns; the last step is no whole factor


@pytest.fixture
def features() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(*shape, dtype=torch.float64) for shape in FINE]


@pytest.fixture
def mask_head() -> MaskHead:
    torch.manual_seed(2)
    head = MaskHead(DIM, HEADS, [channels for channels, *_ in FINE]).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # norms and biases start where mistakes would not show
    return head


def make_maps() -> torch.Tensor:
    return torch.rand(QUERIES, HEADS, HEIGHT, WIDTH, dtype=torch.float64)


def defined_masks(head: MaskHead, maps, coarse, fine) -> torch.Tensor:
    """All queries at once, with the feature repeated for each of them, as the paper's figure has it."""
    x = torch.cat([coarse.expand(len(maps), -1, -1, -1), maps], dim=1)
    x = F.relu(
        F.group_norm(F.conv2d(x, head.lay1.weight, head.lay1.bias, padding=1), 8, head.gn1.weight, head.gn1.bias)
    )
    x = F.relu(
        F.group_norm(F.conv2d(x, head.lay2.weight, head.lay2.bias, padding=1), 8, head.gn2.weight, head.gn2.bias)
    )
    for number, feature in enumerate(fine, start=1):
        adapter = getattr(head, f"adapter{number}")
        layer, norm = getattr(head, f"lay{number + 2}"), getattr(head, f"gn{number + 2}")
        rows, columns = (
            torch.arange(new) * old // new for new, old in zip(feature.shape[-2:], x.shape[-2:], strict=True)
        )
        x = x[..., rows[:, None], columns] + F.conv2d(feature[None], adapter.weight, adapter.bias)
        x = F.relu(F.group_norm(F.conv2d(x, layer.weight, layer.bias, padding=1), 8, norm.weight, norm.bias))
    return F.conv2d(x, head.out_lay.weight, head.out_lay.bias, padding=1)[:, 0]


def test_maps_are_softmax_over_heads_and_pixels_together():
    torch.manual_seed(0)
    attention = AttentionMaps(DIM, HEADS).double()
    queries = torch.randn(QUERIES, DIM, dtype=torch.float64)
    memory = torch.randn(DIM, HEIGHT, WIDTH, dtype=torch.float64)
    padding = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    padding[:, -1] = True
    found = attention(queries, memory, padding)

    q = torch.einsum("nd,ed->ne", queries, attention.q_linear.weight) + attention.q_linear.bias
    k = torch.einsum("dhw,ed->ehw", memory, attention.k_linear.weight) + attention.k_linear.bias[:, None, None]
    width = DIM // HEADS
    for query in range(QUERIES):
        weights = torch.zeros(HEADS, HEIGHT, WIDTH, dtype=torch.float64)
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            weights[head] = (torch.einsum("e,ehw->hw", q[query, part], k[part]) / width**0.5).exp()
        weights[:, padding] = 0
        assert torch.allclose(found[query], weights / weights.sum())


def test_masks_are_those_of_the_definition(mask_head, features):
    maps, coarse = make_maps(), torch.randn(DIM, HEIGHT, WIDTH, dtype=torch.float64)
    found = mask_head(maps, coarse, features)
    assert found.shape == (QUERIES, *FINE[-1][1:])
    assert torch.allclose(found, defined_masks(mask_head, maps, coarse, features))


def test_masks_of_some_queries_are_those_among_all(mask_head, features):
    maps, coarse = make_maps(), torch.randn(DIM, HEIGHT, WIDTH, dtype=torch.float64)
    some = torch.tensor([3, 1])
    assert torch.allclose(mask_head(maps[some], coarse, features), mask_head(maps, coarse, features)[some], rtol=1e-12)


def test_no_query_gives_no_mask_and_zero_gradients(mask_head, features):
    masks = mask_head(make_maps()[:0], torch.randn(DIM, HEIGHT, WIDTH, dtype=torch.float64), features)
    assert masks.shape == (0, *FINE[-1][1:])
    masks.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in mask_head.parameters())
