"""The encoder's layers."""

from __future__ import annotations

import pytest
import torch

from panoptic_segformer.modeling import encoder
from panoptic_segformer.modeling.encoder import Encoder
from panoptic_segformer.modeling.levels import pad_levels


@pytest.mark.parametrize("tokens", [1, 7])
def test_tokens_in_parts_equal_all_at_once(monkeypatch, tokens):
    torch.manual_seed(0)
    module = Encoder(
        dim=16, num_heads=4, feedforward_dim=32, num_layers=2, num_levels=2, num_points=2, dropout=0.0
    ).double()
    pictures = [
        [torch.randn(1, 16, *size).double() for size in sizes] for sizes in ([(4, 6), (2, 3)], [(3, 5), (2, 3)])
    ]
    levels = pad_levels(pictures)
    with torch.no_grad():
        whole = module(levels)
        monkeypatch.setattr(encoder, "TOKENS_PER_PART", tokens)
        parts = module(levels)
    assert whole.shape == (2, 30, 16)
    assert torch.allclose(parts, whole, atol=1e-12)
