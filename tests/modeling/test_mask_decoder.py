"""Shortcuts of the mask decoders against the long way."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from panoptic_segformer.modeling.mask_decoder import (
    ClassifyingMaskDecoder,
    MaskFusion,
    StuffMaskDecoder,
    ThingMaskDecoder,
)

SIZES = [(8, 12), (4, 6), (2, 3)]
TOKENS = sum(height * width for height, width in SIZES)
OPTIONS = {"dim": 16, "num_heads": 4, "feedforward_dim": 32, "num_blocks": 2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_fusing_before_upsampling_equals_upsampling_first():
    fusion = MaskFusion(4).double()
    logits = torch.randn(2, 4, 3, TOKENS, dtype=torch.float64)
    parts = []
    for level, mixer, size in zip(logits.split([h * w for h, w in SIZES], -1), fusion.head_mixers, SIZES, strict=True):
        mixed = F.relu(mixer(level.permute(0, 2, 3, 1)))  # (B, N, Hl*Wl, M)
        mixed = mixed.permute(0, 1, 3, 2).unflatten(-1, size).flatten(0, 1)
        parts.append(F.interpolate(mixed, SIZES[0], mode="bilinear", align_corners=False))
    fused = fusion.fuse(torch.cat(parts, 1).permute(0, 2, 3, 1))[..., 0].relu()
    assert torch.allclose(fusion(logits, SIZES), fused.unflatten(0, (2, 3)), atol=1e-12)


@pytest.mark.parametrize("kind", ["thing", "stuff"])
def test_inference_equals_training_without_intermediate_masks(kind):
    memory = torch.randn(1, TOKENS, 16)
    if kind == "thing":
        decoder = ThingMaskDecoder(num_classes=3, **OPTIONS)
        arguments = (torch.randn(1, 5, 16), memory, SIZES)
    else:
        decoder = StuffMaskDecoder(num_classes=3, **OPTIONS)
        arguments = (memory, SIZES)
    with torch.no_grad():
        trained, inferred = decoder.train()(*arguments), decoder.eval()(*arguments)
    if kind == "stuff":
        assert len(trained[0]) == 2
        assert torch.allclose(trained[0][-1], inferred[0][-1], atol=1e-5)
        trained, inferred = trained[1], inferred[1]
    assert (len(trained), len(inferred)) == (3, 1)
    assert torch.allclose(trained[-1], inferred[0], atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3, 9])
@pytest.mark.parametrize("kind", ["thing", "stuff", "joint"])
def test_fewer_layers_give_what_training_sees_there(kind, layers):
    memory, queries = torch.randn(1, TOKENS, 16), torch.randn(1, 5, 16)
    decoders = {
        "thing": (ThingMaskDecoder(num_classes=3, **OPTIONS), (queries, memory, SIZES)),
        "stuff": (StuffMaskDecoder(num_classes=3, **OPTIONS), (memory, SIZES)),
        "joint": (ClassifyingMaskDecoder(num_classes=3, **OPTIONS, with_self_attention=True), (queries, memory, SIZES)),
    }
    decoder, arguments = decoders[kind]
    with torch.no_grad():
        trained, inferred = decoder.train()(*arguments), decoder.eval()(*arguments, layers)
    last = min(layers, 3) - 1
    if kind != "thing":
        assert torch.allclose(trained[0][min(last, 1)], inferred[0][-1], atol=1e-5)
        trained, inferred = trained[1], inferred[1]
    assert len(inferred) == 1
    assert torch.allclose(trained[last], inferred[0], atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_no_query_gives_no_mask(training):
    decoder = ThingMaskDecoder(num_classes=3, **OPTIONS).train(training)
    masks = decoder(torch.zeros(1, 0, 16), torch.randn(1, TOKENS, 16), SIZES)
    assert all(mask.shape == (1, 0, *SIZES[0]) for mask in masks)


def test_thing_queries_do_not_see_each_other():
    decoder = ThingMaskDecoder(num_classes=3, **OPTIONS).eval()
    queries, memory = torch.randn(1, 5, 16), torch.randn(1, TOKENS, 16)
    with torch.no_grad():
        together, alone = decoder(queries, memory, SIZES)[0], decoder(queries[:, 2:3], memory, SIZES)[0]
    assert torch.allclose(together[:, 2:3], alone, atol=1e-5)
