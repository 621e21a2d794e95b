"""Shortcuts of the mask decoders against the long way."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from panoptic_segformer.modeling.mask_attention import QUERIES_PER_PART, MaskAttention, MaskFusion
from panoptic_segformer.modeling.mask_decoder import ClassifyingMaskDecoder, StuffMaskDecoder, ThingMaskDecoder

SIZES = [(8, 12), (4, 6), (2, 3)]
TOKENS = sum(height * width for height, width in SIZES)
OPTIONS = {"dim": 16, "num_heads": 4, "feedforward_dim": 32, "num_blocks": 2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_fusing_before_upsampling_equals_upsampling_first():
    fusion = MaskFusion(4).double()
    q, k = torch.randn(2, 4, 3, 8).double(), torch.randn(2, 4, TOKENS, 8).double()
    logits = q @ k.transpose(-1, -2)
    parts = []
    for level, mixer, size in zip(logits.split([h * w for h, w in SIZES], -1), fusion.head_mixers, SIZES, strict=True):
        mixed = F.relu(mixer(level.permute(0, 2, 3, 1)))  # (B, N, Hl*Wl, M)
        mixed = mixed.permute(0, 1, 3, 2).unflatten(-1, size).flatten(0, 1)
        parts.append(F.interpolate(mixed, SIZES[0], mode="bilinear", align_corners=False))
    fused = fusion.fuse(torch.cat(parts, 1).permute(0, 2, 3, 1))[..., 0].relu()
    assert torch.allclose(fusion(q, k, SIZES), fused.unflatten(0, (2, 3)), atol=1e-12)


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
    assert torch.allclose(trained[-1].masks(), inferred[0].masks(), atol=1e-5)


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
    assert torch.allclose(trained[last].masks(), inferred[0].masks(), atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_no_query_gives_no_mask(training):
    decoder = ThingMaskDecoder(num_classes=3, **OPTIONS).train(training)
    maps = decoder(torch.zeros(1, 0, 16), torch.randn(1, TOKENS, 16), SIZES)
    assert all(attention.masks().shape == (1, 0, *SIZES[0]) for attention in maps)


def test_masks_of_some_queries_are_rows_of_all():
    attention = MaskAttention(16, 4).double()
    number = 2 * QUERIES_PER_PART + 3
    queries, memory = torch.randn(2, number, 16).double(), torch.randn(2, TOKENS, 16).double()
    with torch.no_grad():
        attention_map = attention(queries, memory, SIZES)
        every = attention_map.masks()
    rows = torch.tensor([number - 1, 0, QUERIES_PER_PART])
    assert every.shape == (2, number, *SIZES[0])
    assert every.std() > 0
    assert torch.allclose(attention_map.masks(rows), every[:, rows], atol=1e-12)


def test_reading_equals_attention_by_the_map():
    decoder = ThingMaskDecoder(num_classes=3, **OPTIONS).double()
    attention = decoder.blocks[0].cross_attention
    queries, memory = torch.randn(2, 5, 16).double(), torch.randn(2, TOKENS, 16).double()
    attention_map = attention(queries, memory, SIZES)
    v = attention.v(memory).unflatten(-1, (4, 4)).transpose(1, 2)
    weights = (attention_map.q @ attention_map.k.transpose(-1, -2)).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(attention.read(attention_map, memory), expected, atol=1e-12)


def test_thing_queries_do_not_see_each_other():
    decoder = ThingMaskDecoder(num_classes=3, **OPTIONS).eval()
    queries, memory = torch.randn(1, 5, 16), torch.randn(1, TOKENS, 16)
    with torch.no_grad():
        together = decoder(queries, memory, SIZES)[0].masks()
        alone = decoder(queries[:, 2:3], memory, SIZES)[0].masks()
    assert torch.allclose(together[:, 2:3], alone, atol=1e-5)
