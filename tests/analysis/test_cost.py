"""Parameters and FLOPs, against counts by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.nn import functional as F

from panoptic_segformer import load_config, ops
from panoptic_segformer.analysis import build_for_sizing, count_flops, count_parameters, model_parts
from panoptic_segformer.analysis.cost import OPERATOR_FLOPS
from panoptic_segformer.modeling.deformable_attention import DeformableAttention
from panoptic_segformer.modeling.levels import FeatureLevels

# Of the released R50 (published: 51.0 M, which are the trainable ones).
R50_PARTS = {
    "backbone": (23_454_912, 23_232_512),
    "neck": (5_638_144, 5_638_144),
    "encoder": (4_542_208, 4_542_208),
    "location_decoder": (7_196_410, 7_196_410),
    "thing_mask_decoder": (3_904_517, 3_904_517),
    "stuff_mask_decoder": (6_482_589, 6_482_589),
}


def test_parameters_of_the_released_model_part_by_part(config_dir):
    model = build_for_sizing(load_config(config_dir / "coco/panoptic_segformer_r50_2x.yaml"), "meta")
    sizes = {name: count_parameters(getattr(model, name)) for name in model_parts(model)}
    assert {name: (size.total, size.trainable) for name, size in sizes.items()} == R50_PARTS
    total = count_parameters(model)
    assert (total.total, total.trainable) == (51_218_780, 50_996_380)


class HandModel(nn.Module):
    """One operator of each kind, with the methods of PanopticSegFormer that a count calls."""

    dim, heads, points, classes, queries = 8, 2, 3, 5, 7

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, self.dim, 4, stride=4, bias=False)
        self.attention = DeformableAttention(self.dim, self.heads, 1, self.points)
        self.location_decoder = nn.Module()
        self.location_decoder.class_heads = nn.ModuleList([nn.Linear(self.dim, self.classes)])
        self.location_decoder.forward = self.decode

    def preprocess(self, batched_inputs):
        return [example["image"] for example in batched_inputs]

    def extract_levels(self, images):
        features = self.backbone(torch.stack(images))
        return FeatureLevels([features], [[tuple(features.shape[-2:])]])

    def encoder(self, levels):
        tokens = levels.tokens()
        reference = levels.reference_points()[:, :, None] * levels.valid_ratios[:, None]
        return self.attention(tokens, reference, tokens, levels)

    def decode(self, memory, levels):
        return self.location_decoder.class_heads[0](memory[:, : self.queries])

    def collect_candidates(self, memory, levels, location):
        tokens = memory.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        masks = F.scaled_dot_product_attention(tokens[:, :, : self.queries], tokens, tokens)
        return [SimpleNamespace(masks=masks, class_probs=location.softmax(-1))]


def test_flops_of_a_model_counted_by_hand():
    flops = count_flops(HandModel().eval(), (16, 24))
    tokens, dim, samples = 4 * 6, 8, 2 * 3
    projections = tokens * dim * (dim + 2 * samples + samples + dim)
    assert flops.by_operator == {
        "conv": tokens * dim * 3 * 4 * 4,
        "linear": projections + 7 * dim * 5,
        "deformable attention": 5 * tokens * samples * (dim // 2),
        "attention": 2 * 7 * tokens * dim,
    }
    assert flops.by_part == {
        "backbone": tokens * dim * 3 * 4 * 4,
        "attention": projections + flops.by_operator["deformable attention"],
        "location_decoder": 7 * dim * 5,
    }
    assert flops.total == sum(flops.by_operator.values())
    assert flops.of_layers == flops.by_operator["conv"] + flops.by_operator["linear"]
    assert "aten::softmax" in flops.uncounted


def test_flops_of_neck_and_encoder_by_formula(tiny_config):
    config = tiny_config()
    flops = count_flops(build_for_sizing(config, "cpu"), (96, 128))
    node = config.MODEL.PANOPTIC_SEGFORMER
    dim, hidden, layers = node.EMBED_DIM, node.FEEDFORWARD_DIM, node.ENCODER.NUM_LAYERS
    samples = node.NUM_HEADS * 4 * node.ENCODER.NUM_POINTS
    areas = [12 * 16, 6 * 8, 3 * 4, 2 * 2]
    tokens = sum(areas)
    # Two projections, offsets and weights; the feed-forward network; two layer norms of 5 per number.
    linear = tokens * dim * (2 * dim + 3 * samples + 2 * hidden)
    assert flops.by_part["encoder"] == layers * (
        linear + 5 * tokens * samples * (dim // node.NUM_HEADS) + 2 * 5 * tokens * dim
    )
    channels = [32, 48, 64]  # of timm's test_efficientnet
    convs = sum(area * dim * fan_in for area, fan_in in zip(areas, [*channels, 9 * channels[-1]], strict=True))
    assert flops.by_part["neck"] == convs + 5 * tokens * dim
    assert flops.total == sum(flops.by_part.values())


def test_flops_do_not_depend_on_the_weights(tiny_config):
    counts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        counts.append(count_flops(build_for_sizing(tiny_config(), "cpu"), (64, 96)))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("key", "value", "decoders"),
    [
        ("QUERIES", "joint", {"location_decoder", "classifying_mask_decoder"}),
        ("LOCATION_DECODER.NUM_LAYERS", 0, {"location_decoder", "classifying_mask_decoder", "stuff_mask_decoder"}),
        ("SEGMENTS", "things", {"location_decoder", "thing_mask_decoder"}),
        ("SEGMENTS", "stuff", {"stuff_mask_decoder"}),
    ],
)
def test_parts_of_every_form_make_up_the_model(tiny_config, key, value, decoders):
    model = build_for_sizing(tiny_config(f"MODEL.PANOPTIC_SEGFORMER.{key}", value), "cpu")
    assert set(model_parts(model)) == {"backbone", "neck", "encoder"} | decoders
    sizes = [count_parameters(getattr(model, name)).total for name in model_parts(model)]
    assert sum(sizes) == count_parameters(model).total
    flops = count_flops(model, (64, 96))
    assert flops.total == sum(flops.by_part.values())
    assert all(flops.by_part[name] > 0 for name in decoders if "mask" in name)


class Sampling(nn.Module):
    """A deformable attention operator with its level sizes."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, value, *tensors):
        return self.operator(value, [(4, 6), (2, 3)], *tensors)


def sampling_flops(operator, *tensors):
    analysis = FlopCountAnalysis(Sampling(operator), tensors)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return analysis.set_op_handle(**OPERATOR_FLOPS).by_operator()["deformable attention"]


# 2 pictures, 5 queries, 3 heads of 4 channels, 2 levels, 2 points
VALUE = torch.rand(2, 4 * 6 + 2 * 3, 3, 4)
OFFSETS = torch.rand(2, 5, 3, 2, 2, 2)
WEIGHTS = torch.rand(2, 5, 3, 2, 2)
FLOPS = 5 * WEIGHTS.numel() * 4


@pytest.mark.parametrize("operator", [ops.ms_deform_attn, ops.ms_deform_attn_reference])
def test_sampling_counts_the_same_in_every_implementation(operator):
    assert sampling_flops(operator, VALUE, OFFSETS, WEIGHTS) == FLOPS


def test_fused_sampling_counts_the_same():
    reference = torch.rand(2, 5, 2, 2)
    assert sampling_flops(ops.ms_deform_attn_fused, VALUE, reference, OFFSETS, WEIGHTS) == FLOPS
