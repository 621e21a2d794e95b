from __future__ import annotations

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model

from panoptic_segformer.profiling.training import time_training_step, training_examples
from panoptic_segformer.training.optimizer import build_optimizer

SIZE = (96, 128)


def test_training_examples_have_things_and_stuff_of_the_models_classes(tiny_model):
    categories = tiny_model.categories
    first, second = training_examples(categories, SIZE, 2)
    assert first["image"].shape == (3, *SIZE)
    things, stuff = first["instances"], first["stuff"]
    assert len(things) >= 5
    assert 2 <= len(stuff) == len(set(stuff.gt_classes.tolist()))
    assert 0 <= things.gt_classes.min() <= things.gt_classes.max() < categories.num_things
    assert stuff.gt_classes.max() < categories.num_stuff
    masks = torch.cat([things.gt_masks.tensor, stuff.gt_masks.tensor])
    assert masks.any(dim=(1, 2)).all()
    assert masks.sum(0).max() == 1  # No pixel belongs to two segments.
    assert torch.equal(first["image"], second["image"])


def test_training_examples_of_few_classes_give_each_stuff_class_once(tiny_model):
    few = dataclasses.replace(tiny_model.categories, thing_ids=(0,), stuff_ids=(1,))
    (example,) = training_examples(few, SIZE, 1)
    assert example["stuff"].gt_classes.tolist() == [0]
    assert set(example["instances"].gt_classes.tolist()) == {0}


@pytest.mark.parametrize("amp", [False, True])
def test_time_training_step_measures_every_stage_and_steps(tiny_config, amp):
    cfg = tiny_config()
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    weight = model.encoder.level_embedding.detach().clone()
    run = time_training_step(model, optimizer, training_examples(model.categories, SIZE, 1), amp)
    assert list(run.seconds)[-4:] == ["rest", "backward", "optimizer", "total"]
    assert "mask decoders and losses" in run.seconds
    assert all(seconds > 0 for seconds in run.seconds.values())
    parts = sum(seconds for name, seconds in run.seconds.items() if name != "total")
    assert 0.5 * run.seconds["total"] < parts <= run.seconds["total"] * (1 + 1e-9)
    assert {"loss_class_0", "loss_mask_stuff_final"} <= set(run.results)
    assert not torch.equal(model.encoder.level_embedding, weight)
    assert all(parameter.grad is None for parameter in model.parameters())
