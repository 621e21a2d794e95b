"""The label map of a training example."""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Instances

from panoptic_segformer.data.semantic import semantic_labels


def instances(masks: list[list[list[int]]], classes: list[int]) -> Instances:
    tensor = torch.tensor(masks, dtype=torch.bool).view(-1, 2, 3)
    return Instances((2, 3), gt_masks=BitMasks(tensor), gt_classes=torch.tensor(classes, dtype=torch.int64))


def test_labels_of_things_stuff_and_void():
    things = instances([[[1, 0, 0], [0, 0, 0]], [[0, 1, 0], [0, 0, 0]]], [4, 0])
    stuff = instances([[[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0]]], [0, 7])
    assert semantic_labels(things, stuff).tolist() == [[0, 0, 1], [8, 8, 255]]


def test_labels_without_segments_are_void():
    assert semantic_labels(instances([], []), instances([], [])).tolist() == [[255] * 3] * 2
