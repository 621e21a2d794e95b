from __future__ import annotations

import math
from functools import reduce

import pytest
from detectron2.config import get_cfg

from panoptic_segformer.architectures import ARCHITECTURES
from panoptic_segformer.inference.thresholds import Thresholds, with_thresholds


def config(name, *, mask_wise=False):
    cfg = get_cfg()
    ARCHITECTURES[name].add_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = name
    if mask_wise:
        cfg.MODEL.MASK_WISE_MERGING.ENABLED = True
    return cfg


def value(cfg, key):
    return reduce(getattr, key.split("."), cfg.MODEL)


CASES = [
    ("PanopticSegFormer", "score", ["PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD"], 0.3),
    ("PanopticSegFormer", "mask", ["PANOPTIC_SEGFORMER.MERGING.MASK_THRESHOLD"], 0.3),
    (
        "PanopticSegFormer",
        "overlap",
        [f"PANOPTIC_SEGFORMER.MERGING.{kind}_OVERLAP_THRESHOLD" for kind in ("THING", "STUFF")],
        0.3,
    ),
    ("PSFPanopticFCN", "score", ["INFERENCE.COMBINE.INST_THRESH"], 0.3),
    ("PSFPanopticFCN", "overlap", ["INFERENCE.COMBINE.OVERLAP_THRESH"], 0.3),
    ("PSFMaskFormer", "score", ["MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD"], 0.3),
    # MaskFormer asks how much must be left.
    ("PSFMaskFormer", "overlap", ["MASK_FORMER.TEST.OVERLAP_THRESHOLD"], 0.7),
    ("PSFDetrPanoptic", "score", ["DETR.TEST.SCORE_THRESHOLD"], 0.3),
    ("PSFPanopticFPN", "score", ["PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"], 0.3),
    ("PSFPanopticFPN", "overlap", ["PANOPTIC_FPN.COMBINE.OVERLAP_THRESH"], 0.3),
    ("PSFPanopticDeepLab", "score", ["PANOPTIC_DEEPLAB.CENTER_THRESHOLD"], 0.3),
]


@pytest.mark.parametrize(("name", "threshold", "keys", "expected"), CASES)
def test_threshold_goes_to_the_keys_of_the_model_alone(name, threshold, keys, expected):
    before = config(name)
    changed = with_thresholds(before, Thresholds(**{threshold: 0.3}))
    for key in keys:
        assert value(changed, key) == pytest.approx(expected)
        changed.merge_from_list([f"MODEL.{key}", value(before, key)])
    assert changed == before


def test_every_architecture_has_a_score_threshold():
    assert {name for name, threshold, *_ in CASES if threshold == "score"} == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("PSFDetrPanoptic", "mask"),
        ("PSFDetrPanoptic", "overlap"),
        ("PSFPanopticDeepLab", "overlap"),
        ("PSFPanopticFPN", "mask"),
        ("PSFMaskFormer", "mask"),
    ],
)
def test_threshold_that_a_model_lacks_names_those_it_has(name, threshold):
    with pytest.raises(ValueError, match=f"{name} has no {threshold} threshold, it has those of score"):
        with_thresholds(config(name), Thresholds(**{threshold: 0.3}))


@pytest.mark.parametrize("name", ["PSFPanopticFCN", "PSFMaskFormer", "PSFDetrPanoptic", "PSFPanopticFPN"])
def test_mask_wise_merging_brings_its_own_thresholds(name):
    node = with_thresholds(config(name, mask_wise=True), Thresholds(0.1, 0.2, 0.3)).MODEL.MASK_WISE_MERGING
    assert (node.SCORE_THRESHOLD, node.MASK_THRESHOLD) == (0.1, 0.2)
    assert (node.THING_OVERLAP_THRESHOLD, node.STUFF_OVERLAP_THRESHOLD) == (0.3, 0.3)


def test_no_threshold_changes_nothing():
    for name in ARCHITECTURES:
        assert with_thresholds(config(name), Thresholds()) == config(name)


@pytest.mark.parametrize(
    ("threshold", "wrong"),
    [("score", -0.1), ("score", math.nan), ("score", math.inf), ("mask", -1), ("overlap", 1.01), ("overlap", -0.01)],
)
def test_threshold_out_of_range_names_the_value(threshold, wrong):
    with pytest.raises(ValueError, match=f"the {threshold} threshold is {wrong}"):
        with_thresholds(config("PanopticSegFormer"), Thresholds(**{threshold: wrong}))


@pytest.mark.parametrize("limit", [0, 1])
def test_limits_belong_to_the_range(limit):
    changed = with_thresholds(config("PanopticSegFormer"), Thresholds(limit, limit, limit))
    assert limit == changed.MODEL.PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD
