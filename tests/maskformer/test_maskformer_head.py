"""Pixel decoder and predictor, against a plain second writing of the paper's formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from maskformer.pixel_decoder import PixelDecoder, grid_encoding
from maskformer.predictor import MaskFormerHead, Predictor
from panoptic_segformer.modeling.transformer import TransformerDecoder, TransformerEncoder

DIM, HEADS, QUERIES, CLASSES = 8, 2, 5, 3
CHANNELS = {"res2": 6, "res3": 7, "res4": 9, "res5": 10}
SIZES = {"res2": (11, 13), "res3": (6, 7), "res4": (3, 4), "res5": (2, 2)}


def build_head(has_encoder: bool) -> MaskFormerHead:
    torch.manual_seed(0)
    sizes = {"dim": DIM, "num_heads": HEADS, "feedforward_dim": 16, "dropout": 0.3}
    pixel_decoder = PixelDecoder(
        in_channels=list(CHANNELS.values()),
        dim=DIM,
        mask_dim=4,
        norm="LN",
        encoder=TransformerEncoder(num_layers=2, **sizes) if has_encoder else None,
    )
    predictor = Predictor(
        in_channels=DIM if has_encoder else CHANNELS["res5"],
        project=not has_encoder,
        num_queries=QUERIES,
        num_classes=CLASSES,
        mask_dim=4,
        encoder=TransformerEncoder(num_layers=0, **sizes),
        decoder=TransformerDecoder(num_layers=2, **sizes),
    )
    source = "transformer_encoder" if has_encoder else "res5"
    head = MaskFormerHead(pixel_decoder, predictor, list(CHANNELS), source).double()
    for parameter in head.parameters():  # biases start from zero and would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return head.eval()


class Reference:
    """The head written from the paper with functions alone; parameters by their names in released checkpoints."""

    def __init__(self, parameters: dict[str, torch.Tensor]):
        self.parameters = parameters

    def get(self, name):
        return self.parameters[f"{name}.weight"], self.parameters.get(f"{name}.bias")

    def conv(self, name, x, size=3):
        weight, bias = self.get(name)
        assert weight.shape[-1] == size
        x = F.conv2d(x, weight, bias, padding=size // 2)
        if f"{name}.norm.weight" not in self.parameters:
            return x
        scale, shift = self.get(f"{name}.norm")
        mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-6).sqrt() * scale[:, None, None] + shift[:, None, None]

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], *self.get(name))

    def attention(self, name, query, key, value):
        weights = self.parameters[f"{name}.in_proj_weight"].chunk(3)
        biases = self.parameters[f"{name}.in_proj_bias"].chunk(3)
        triples = zip((query, key, value), weights, biases, strict=True)
        q, k, v = (F.linear(x, weight, bias).unflatten(-1, (HEADS, -1)) for x, weight, bias in triples)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        return F.linear(mixed.flatten(2), *self.get(f"{name}.out_proj"))

    def feed_forward(self, name, x):
        return F.linear(F.linear(x, *self.get(f"{name}.linear1")).relu(), *self.get(f"{name}.linear2"))

    def encode(self, prefix, x, num_layers):
        tokens, places = x.flatten(2).mT, brute_force_encoding(*x.shape[-2:])
        for i in range(num_layers):
            name = f"{prefix}.layers.{i}"
            placed = tokens + places
            tokens = self.norm(f"{name}.norm1", tokens + self.attention(f"{name}.self_attn", placed, placed, tokens))
            tokens = self.norm(f"{name}.norm2", tokens + self.feed_forward(name, tokens))
        return tokens.mT.unflatten(2, x.shape[-2:])

    def decode(self, prefix, memory_map, query_places):
        memory, places = memory_map.flatten(2).mT, brute_force_encoding(*memory_map.shape[-2:])
        queries = torch.zeros(len(memory), *query_places.shape, dtype=memory.dtype)
        for i in range(2):
            name = f"{prefix}.layers.{i}"
            placed = queries + query_places
            queries = queries + self.attention(f"{name}.self_attn", placed, placed, queries)
            queries = self.norm(f"{name}.norm1", queries)
            mixed = self.attention(f"{name}.multihead_attn", queries + query_places, memory + places, memory)
            queries = self.norm(f"{name}.norm2", queries + mixed)
            queries = self.norm(f"{name}.norm3", queries + self.feed_forward(name, queries))
        return self.norm(f"{prefix}.norm", queries)

    def __call__(self, features, has_encoder):
        x = features["res5"]
        if has_encoder:
            x = self.encode("pixel_decoder.transformer.encoder", self.conv("pixel_decoder.input_proj", x, 1), 2)
            coarse = x
        else:
            coarse = self.conv("predictor.input_proj", x, 1)
        x = self.conv("pixel_decoder.layer_4", x).relu()
        for number, name in ((3, "res4"), (2, "res3"), (1, "res2")):
            lateral = self.conv(f"pixel_decoder.adapter_{number}", features[name], 1)
            rows, columns = (torch.arange(n) * o // n for n, o in zip(lateral.shape[-2:], x.shape[-2:], strict=True))
            x = self.conv(f"pixel_decoder.layer_{number}", lateral + x[..., rows[:, None], columns]).relu()
        mask_features = self.conv("pixel_decoder.mask_features", x)
        queries = self.decode("predictor.transformer.decoder", coarse, self.parameters["predictor.query_embed.weight"])
        y = queries
        for i in range(3):
            y = F.linear(y, *self.get(f"predictor.mask_embed.layers.{i}"))
            y = y.relu() if i < 2 else y
        class_logits = F.linear(queries, *self.get("predictor.class_embed"))
        return class_logits, torch.einsum("bqd,bdhw->bqhw", y, mask_features)


def brute_force_encoding(height, width):
    """Number by number: rows fill the first half of the channels; cells count from 1."""
    encoding = torch.zeros(1, height * width, DIM, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            for half, (place, length) in enumerate(((row + 1, height), (column + 1, width))):
                angle = place / (length + 1e-6) * 2 * math.pi
                for i in range(DIM // 2):
                    wave = angle / 10000 ** (2 * (i // 2) / (DIM // 2))
                    value = math.cos(wave) if i % 2 else math.sin(wave)
                    encoding[0, row * width + column, half * DIM // 2 + i] = value
    return encoding


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(2, channels, *SIZES[name], dtype=torch.float64, generator=generator)
        for name, channels in CHANNELS.items()
    }


def test_grid_encoding_is_detrs():
    x = torch.zeros(3, DIM, 4, 5, dtype=torch.float64)
    assert torch.allclose(grid_encoding(x), brute_force_encoding(4, 5), atol=1e-12)


@pytest.mark.parametrize("has_encoder", [True, False])
def test_head_equals_the_papers_formulas(features, has_encoder):
    head = build_head(has_encoder)
    with torch.no_grad():
        (prediction,) = head(features)
        class_logits, mask_logits = Reference(head.state_dict())(features, has_encoder)
    assert prediction.mask_logits.shape == (2, QUERIES, *SIZES["res2"])
    assert torch.allclose(prediction.class_logits, class_logits, atol=1e-10)
    assert torch.allclose(prediction.mask_logits, mask_logits, atol=1e-10)


def test_training_has_predictions_of_all_layers(features):
    head = build_head(has_encoder=True)
    assert len(head.train()(features)) == 2
