"""DETR's transformer against torch's own layers, which have the same names, and against plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from panoptic_segformer.modeling.transformer import TransformerDecoder, TransformerEncoder

DIM, HEADS, HIDDEN = 16, 4, 24
SIZES = {"dim": DIM, "num_heads": HEADS, "feedforward_dim": HIDDEN, "num_layers": 2, "dropout": 0.0}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("is_padded", [False, True])
def test_encoder_without_positions_is_torchs(is_padded):
    encoder = TransformerEncoder(**SIZES).double()
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(DIM, HEADS, HIDDEN, 0.0, batch_first=True), 2, enable_nested_tensor=False
    ).double()
    theirs.load_state_dict(encoder.state_dict())
    tokens = torch.randn(2, 7, DIM, dtype=torch.float64)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = is_padded
    found = encoder(tokens, torch.zeros_like(tokens), padding if is_padded else None)
    expected = theirs(tokens, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding])


def test_decoder_without_positions_is_torchs():
    decoder = TransformerDecoder(**SIZES).double().eval()
    theirs = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(DIM, HEADS, HIDDEN, 0.0, batch_first=True), 2, nn.LayerNorm(DIM)
    ).double()
    theirs.load_state_dict(decoder.state_dict())
    memory = torch.randn(2, 7, DIM, dtype=torch.float64)
    (found,) = decoder(torch.zeros(5, DIM, dtype=torch.float64), memory, torch.zeros_like(memory))
    torch.testing.assert_close(found, theirs(torch.zeros(2, 5, DIM, dtype=torch.float64), memory))


def attention(module: nn.MultiheadAttention, query, key, value):
    """One picture, written out: queries and keys have positions, values have none."""
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = (
        (x @ w.T + b).unflatten(-1, (HEADS, -1)).transpose(0, 1)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    mixed = (q @ k.mT / (DIM // HEADS) ** 0.5).softmax(-1) @ v
    return module.out_proj(mixed.transpose(0, 1).flatten(1))


def test_positions_reach_queries_and_keys_but_not_values():
    encoder = TransformerEncoder(**{**SIZES, "num_layers": 1}).double()
    decoder = TransformerDecoder(**{**SIZES, "num_layers": 1}).double().eval()
    tokens, positions = torch.randn(2, 1, 7, DIM, dtype=torch.float64)
    layer = encoder.layers[0]
    placed = (tokens + positions)[0]
    attended = layer.norm1(tokens[0] + attention(layer.self_attn, placed, placed, tokens[0]))
    expected = layer.norm2(attended + layer.linear2(layer.linear1(attended).relu()))
    torch.testing.assert_close(encoder(tokens, positions)[0], expected)

    query_positions = torch.randn(5, DIM, dtype=torch.float64)
    layer = decoder.layers[0]
    queries = torch.zeros_like(query_positions)
    queries = layer.norm1(queries + attention(layer.self_attn, query_positions, query_positions, queries))
    read = attention(layer.multihead_attn, queries + query_positions, placed, tokens[0])
    queries = layer.norm2(queries + read)
    queries = layer.norm3(queries + layer.linear2(layer.linear1(queries).relu()))
    (found,) = decoder(query_positions, tokens, positions)
    torch.testing.assert_close(found[0], decoder.norm(queries))


def test_training_gives_every_layer_and_inference_the_last():
    decoder = TransformerDecoder(**SIZES)
    arguments = torch.randn(5, DIM), torch.randn(2, 7, DIM), torch.randn(1, 7, DIM)
    layers = decoder(*arguments)
    (last,) = decoder.eval()(*arguments)
    assert len(layers) == 2
    torch.testing.assert_close(layers[-1], last)
    assert not torch.allclose(layers[0], last)


def test_nothing_reads_padding():
    encoder, decoder = TransformerEncoder(**SIZES), TransformerDecoder(**SIZES).eval()
    tokens, positions, queries = torch.randn(1, 7, DIM), torch.randn(1, 7, DIM), torch.randn(5, DIM)
    longer = torch.cat([tokens, torch.full((1, 2, DIM), 1e3)], dim=1)
    places = torch.cat([positions, torch.randn(1, 2, DIM)], dim=1)
    padding = torch.arange(9)[None] >= 7
    memory, padded = encoder(tokens, positions), encoder(longer, places, padding)
    torch.testing.assert_close(padded[:, :7], memory)
    torch.testing.assert_close(
        decoder(queries, padded, places, padding)[0], decoder(queries, memory, positions)[0], rtol=1e-4, atol=1e-5
    )
