"""Values of the config that do not exist are refused with the ones that do, and only where they matter."""

from __future__ import annotations

import pytest
from detectron2.modeling import build_model

from panoptic_segformer.evaluation import build_evaluators

NODE = "MODEL.PANOPTIC_SEGFORMER"


def words(options: dict[str, str]) -> list[str]:
    return [word for key, value in options.items() for word in (f"{NODE}.{key}", value)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"QUERIES": "one"}, "QUERIES is 'one'.*'decoupled', 'joint'"),
        ({"SEGMENTS": "thing"}, "SEGMENTS is 'thing'.*'all', 'things', 'stuff'"),
        ({"LOCATION_DECODER.LOCATION": "mass"}, "LOCATION is 'mass'.*'box', 'center_scale', 'center'"),
        ({"ENCODER.NUM_LAYERS": "0"}, "ENCODER.NUM_LAYERS is 0: set it to 1 or more"),
        ({"MERGING.NUM_THING_CANDIDATES": "-1"}, "MERGING.NUM_THING_CANDIDATES is -1: set it to 1 or more"),
        ({"LOCATION_DECODER.NUM_LAYERS": "-1"}, "LOCATION_DECODER.NUM_LAYERS is -1: set it to 0 or more"),
        ({"TEST.NUM_MASK_LAYERS": "-2"}, "TEST.NUM_MASK_LAYERS is -2: set it to 0 or more"),
        ({"LOCATION_DECODER.NUM_QUERIES": "0"}, "LOCATION_DECODER.NUM_QUERIES is 0: set it to 1 or more"),
        ({"MASK_DECODER.NUM_STUFF_BLOCKS": "0"}, "MASK_DECODER.NUM_STUFF_BLOCKS is 0: set it to 1 or more"),
        (
            {"MASK_DECODER.NUM_JOINT_BLOCKS": "0", "QUERIES": "joint"},
            "MASK_DECODER.NUM_JOINT_BLOCKS is 0: set it to 1 or more",
        ),
        (
            {"MASK_DECODER.NUM_THING_BLOCKS": "0", "LOCATION_DECODER.NUM_LAYERS": "0"},
            "MASK_DECODER.NUM_THING_BLOCKS is 0: set it to 1 or more",
        ),
    ],
)
def test_values_that_do_not_exist_are_explained(tiny_config, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(tiny_config(*words(options)))


@pytest.mark.parametrize(
    "options",
    [
        {"SEGMENTS": "things", "MASK_DECODER.NUM_STUFF_BLOCKS": "0", "MASK_DECODER.NUM_JOINT_BLOCKS": "0"},
        {"SEGMENTS": "stuff", "MASK_DECODER.NUM_THING_BLOCKS": "-1", "LOCATION_DECODER.NUM_QUERIES": "0"},
        {"QUERIES": "joint", "MASK_DECODER.NUM_THING_BLOCKS": "-1", "MASK_DECODER.NUM_STUFF_BLOCKS": "0"},
    ],
)
def test_sizes_of_decoders_that_are_not_built_do_not_matter(tiny_config, options):
    build_model(tiny_config(*words(options)))


def test_evaluation_refuses_segments_in_the_words_of_the_model(tiny_config):
    cfg = tiny_config(*words({"SEGMENTS": "thing"}))
    messages = []
    for build in (build_model, lambda cfg: build_evaluators(cfg, "synthetic_val")):
        with pytest.raises(ValueError, match="SEGMENTS is 'thing'") as error:
            build(cfg)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("('res3', 'res4', 'res6')", r"\['res3', 'res4', 'res6'\], but the backbone gives \['res3', 'res4', 'res5'\]"),
        ("()", r"IN_FEATURES is \[\]: masks need at least 2 features"),
        ("('res5',)", r"IN_FEATURES is \['res5'\]: masks need at least 2 features"),
    ],
)
def test_features_that_the_backbone_lacks_are_named(tiny_config, features, message):
    with pytest.raises(ValueError, match=message):
        build_model(tiny_config(f"{NODE}.IN_FEATURES", features))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RESNETS.DEPTH", "7", "DEPTH is 7: set it to one of 18, 34, 50, 101, 152"),
        ("MODEL.BACKBONE.NAME", "resnet", "BACKBONE.NAME is 'resnet': set it to one of .*'build_timm_backbone'"),
    ],
)
def test_backbone_that_does_not_exist_is_explained(tiny_config, key, value, message):
    with pytest.raises(ValueError, match=message):
        build_model(tiny_config("MODEL.BACKBONE.NAME", "build_resnet_backbone", key, value))
