"""The same scene in every form that models give it in becomes the same prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comparison_fakes import GRASS, JOINT, PERSON, SEPARATED, SIZE, SKY
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances
from pycocotools import mask as rle

from panoptic_segformer.comparison.conversion import ModelClasses, convert_output

PERSON_AREA = SIZE[0] // 2 * SIZE[1] // 2
# Contiguous ids of person, grass and sky.
CONTIGUOUS = {JOINT: (0, 125, 119), SEPARATED: (0, 46, 40)}


def scene(first_id=1):
    """Return ids of sky, grass and a person in the lower left quarter, in this order from `first_id` on."""
    ids = torch.full(SIZE, first_id, dtype=torch.int32)
    ids[SIZE[0] // 2 :] = first_id + 1
    ids[SIZE[0] // 2 :, : SIZE[1] // 2] = first_id + 2
    return ids


def segments(dataset, first_id=1):
    person, grass, sky = CONTIGUOUS[dataset]
    return [
        {"id": first_id, "category_id": sky, "isthing": False},
        {"id": first_id + 1, "category_id": grass, "isthing": False},
        {"id": first_id + 2, "category_id": person, "isthing": True, "score": torch.tensor(0.5)},
    ]


def raw_segments():
    """Segments that carry the dataset's own ids, so without `isthing`."""
    return [{"id": id_, "category_id": category} for id_, category in ((1, SKY), (2, GRASS), (3, PERSON))]


def labels_with_void():
    """A map of class x divisor + instance."""
    person, grass, sky = CONTIGUOUS[JOINT]
    lookup = torch.tensor([0, sky * 1000, grass * 1000, person * 1000 + 1])
    return lookup[scene().long()]


FORMS = {
    "joint": (JOINT, (scene(), segments(JOINT))),
    "separated": (SEPARATED, (scene(), segments(SEPARATED))),
    "ids from 0, as DETR's": (JOINT, (scene(0), segments(JOINT, 0))),
    "the dataset's own ids": (SEPARATED, (scene(), raw_segments())),
    "a segment without a pixel": (JOINT, (scene(), [*segments(JOINT), {"id": 9, "category_id": 3, "isthing": True}])),
    "an array": (JOINT, (scene().numpy(), segments(JOINT))),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_segments(form):
    dataset, panoptic_seg = FORMS[form]
    prediction = convert_output({"panoptic_seg": panoptic_seg}, SIZE, ModelClasses.of_dataset(dataset))
    assert [segment["category_id"] for segment in prediction.segments] == [SKY, GRASS, PERSON]
    assert [segment["isthing"] for segment in prediction.segments] == [False, False, True]
    assert [segment["area"] for segment in prediction.segments] == [2 * PERSON_AREA, PERSON_AREA, PERSON_AREA]
    assert prediction.segment_ids.dtype == np.int32
    np.testing.assert_array_equal(prediction.segment_ids, scene().numpy())
    assert prediction.instances is None


def test_labels_without_segments_as_of_panoptic_deeplab():
    metadata = MetadataCatalog.get(JOINT)
    classes = ModelClasses.of_dataset(JOINT)
    labels = labels_with_void()
    labels[0] = -1
    prediction = convert_output({"panoptic_seg": (labels, None)}, SIZE, classes)
    assert metadata.label_divisor == classes.label_divisor == 1000
    assert not prediction.segment_ids[0].any()
    found = {segment["category_id"]: segment for segment in prediction.segments}
    assert found.keys() == {SKY, GRASS, PERSON}
    assert found[SKY]["area"] == 2 * PERSON_AREA - SIZE[1]
    assert (prediction.segment_ids == found[PERSON]["id"]).sum() == PERSON_AREA
    assert found[PERSON]["isthing"]


def test_pixels_of_ids_that_no_segment_has_are_void():
    prediction = convert_output({"panoptic_seg": (scene(), segments(JOINT)[:2])}, SIZE, ModelClasses.of_dataset(JOINT))
    assert (prediction.segment_ids == 0).sum() == PERSON_AREA


def test_scores_are_numbers_or_none():
    prediction = convert_output({"panoptic_seg": (scene(), segments(JOINT))}, SIZE, ModelClasses.of_dataset(JOINT))
    assert [segment["score"] for segment in prediction.segments] == [None, None, 0.5]


@pytest.mark.parametrize("masks", [lambda m: m, lambda m: m.float(), BitMasks], ids=["bool", "float", "BitMasks"])
@pytest.mark.parametrize("boxes", ["given", "none", "zeros"])
def test_instances_have_run_lengths_boxes_and_dataset_ids_best_first(masks, boxes):
    pixels = torch.zeros(2, *SIZE, dtype=torch.bool)
    pixels[0, 2:6, 3:10] = True
    pixels[1, 8:9, 0:4] = True
    instances = Instances(SIZE)
    instances.pred_masks = masks(pixels)
    if boxes != "none":
        corners = torch.tensor([[3.0, 2, 10, 6], [0, 8, 4, 9]])
        instances.pred_boxes = Boxes(corners if boxes == "given" else torch.zeros(2, 4))
    instances.pred_classes = torch.tensor([79, 0])
    instances.scores = torch.tensor([0.25, 0.75])
    output = {"panoptic_seg": (scene(), segments(JOINT)), "instances": instances}
    first, second = convert_output(output, SIZE, ModelClasses.of_dataset(JOINT)).instances
    assert (first["category_id"], second["category_id"]) == (PERSON, 90)
    assert (first["score"], second["score"]) == (0.75, 0.25)
    assert first["bbox"] == [0, 8, 4, 1]
    assert second["bbox"] == [3, 2, 7, 4]
    np.testing.assert_array_equal(rle.decode(second["segmentation"]), pixels[0].numpy())


def test_boxes_alone_are_no_instances():
    instances = Instances(SIZE, pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    output = {"panoptic_seg": (scene(), segments(JOINT)), "instances": instances}
    assert convert_output(output, SIZE, ModelClasses.of_dataset(JOINT)).instances is None


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"sem_seg": 0}, r"returns \['sem_seg'\] but no panoptic_seg"),
        ({"panoptic_seg": (torch.zeros(3, 4), [])}, r"has \(height, width\) \(3, 4\), asked for were \(32, 48\)"),
        (
            {"panoptic_seg": (scene(), [{"id": 1, "category_id": 133, "isthing": False}])},
            "category_id 133 .* none of contiguous ids of stuff",
        ),
        (
            {"panoptic_seg": (scene(), [{"id": 1, "category_id": 12}])},
            "category_id 12 .* none of the dataset's own ids",
        ),
    ],
)
def test_wrong_output_is_said_in_plain_words(output, message):
    with pytest.raises(ValueError, match=message):
        convert_output(output, SIZE, ModelClasses.of_dataset(JOINT))


def test_dataset_without_panoptic_classes_is_refused():
    with pytest.raises(ValueError, match="no panoptic dataset"):
        ModelClasses.of_dataset("coco_2017_val")
