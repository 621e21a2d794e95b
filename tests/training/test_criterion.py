"""Losses of a batch, from the meta-architecture down."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from panoptic_segformer.data.mapper import PanopticDatasetMapper
from panoptic_segformer.training.criterion import SegmentCounts
from panoptic_segformer.training.ranks import part_of_batch


@pytest.fixture
def model_and_examples(tiny_config):
    cfg = tiny_config("INPUT.RANDOM_FLIP", "none")
    torch.manual_seed(0)
    model = build_model(cfg).train()
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    return model, [mapper(record) for record in DatasetCatalog.get("synthetic_train")]


def test_losses_are_named_by_decoder_and_layer(model_and_examples):
    model, examples = model_and_examples
    losses = model(examples[:2])
    location = {f"loss_{term}_{layer}" for term in ("class", "box", "giou") for layer in range(2)}
    masks = {f"loss_mask_{kind}_{layer}" for kind in ("thing", "stuff") for layer in (0, "final")}
    assert set(losses) == location | masks | {"loss_class_stuff_0"}
    assert all(loss.isfinite() for loss in losses.values())


def segment_counts(examples) -> tuple[int, int]:
    return sum(len(e["instances"]) for e in examples), sum(len(e["stuff"]) for e in examples)


def test_batch_is_the_sum_of_its_pictures_over_the_sum_of_their_segments(model_and_examples):
    model, examples = model_and_examples
    pair = [e for e in examples if len(e["instances"])][:2]
    together = model(pair)
    things, stuff = segment_counts(pair)
    for name, loss in together.items():
        expected = 0.0
        for example in pair:
            own_things, own_stuff = segment_counts([example])
            own, all_ = (own_stuff, stuff) if "stuff" in name else (own_things, things)
            share = all_ / (things + stuff)
            own_share = own / (own_things + own_stuff)
            expected += model([example])[name].item() / own_share * own * share / all_
        assert loss.item() == pytest.approx(expected, rel=1e-4), name


def test_counts_are_at_least_one():
    counts = SegmentCounts.of([0, 0], torch.device("cpu"), with_things=True, with_stuff=True)
    assert (counts.things, counts.stuff, counts.thing_share) == (1, 1, 0.5)


def test_kind_that_is_not_learned_has_no_share():
    cpu = torch.device("cpu")
    assert SegmentCounts.of([0, 0], cpu, with_things=True, with_stuff=False).thing_share == 1
    assert SegmentCounts.of([0, 0], cpu, with_things=False, with_stuff=True).stuff_share == 1


def test_counts_of_a_part_are_those_of_its_batch():
    with part_of_batch([2.5, 0.5]):
        counts = SegmentCounts.of([7, 7], torch.device("cpu"), with_things=True, with_stuff=True)
    assert (counts.things, counts.stuff) == (2.5, 1)
    assert SegmentCounts.of([7, 6], torch.device("cpu"), with_things=True, with_stuff=True).things == 7


def test_more_things_than_queries_train(tiny_config, model_and_examples):
    _, examples = model_and_examples
    example = max(examples, key=lambda e: len(e["instances"]))
    assert len(example["instances"]) > 2
    model = build_model(tiny_config("MODEL.PANOPTIC_SEGFORMER.LOCATION_DECODER.NUM_QUERIES", "2")).train()
    assert sum(model([example]).values()).isfinite()
