"""Test-time augmentation: views brought into one frame, joined, and given to the merging."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from panoptic_segformer import load_config
from panoptic_segformer.data.datasets import register_datasets
from panoptic_segformer.inference.augmentation import Views, find_in_views, join_views, mirrored
from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.training.trainer import PanopticTrainer

THRESHOLD = 0.5
NODE = "MODEL.PANOPTIC_SEGFORMER"
RESULTS = [f"{NODE}.TEST.SEMANTIC_ON", "True", f"{NODE}.MERGING.SCORE_THRESHOLD", "0.0"]
AUG = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES"]


def of_rows(*rows: tuple, size: tuple[int, int] = (8, 8)) -> Candidates:
    """Candidates of rows (first column, last column, class probability, class, is thing), masks of full height."""
    masks = torch.zeros(len(rows), *size)
    for mask, (left, right, *_) in zip(masks, rows, strict=True):
        mask[:, left:right] = 1
    boxes = [
        ((left + right) / 2 / size[1], 0.5, (right - left) / size[1], 1.0) for left, right, *_, thing in rows if thing
    ]
    return Candidates(
        masks=masks,
        class_probs=torch.tensor([row[2] for row in rows]),
        category_ids=torch.tensor([row[3] for row in rows]),
        is_thing=torch.tensor([row[4] for row in rows]),
        boxes=torch.tensor(boxes).view(-1, 4),
    )


def corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def random_things(random: torch.Generator, number: int) -> Candidates:
    """Overlapping things of one class, each somewhere on the left or on the right."""
    lefts = torch.randint(0, 5, (number,), generator=random).tolist()
    probs = torch.rand(number, generator=random).tolist()
    return of_rows(*((left, left + 4, prob, 0, True) for left, prob in zip(lefts, probs, strict=True)))


def test_mirrored_masks_and_boxes_change_sides():
    candidates = of_rows((0, 3, 0.9, 0, True), (2, 6, 0.5, 1, True), (5, 8, 0.7, 2, False))
    result = mirrored(candidates)
    columns = np.arange(8)
    for mask, own in zip(result.masks.numpy(), candidates.masks.numpy(), strict=True):
        np.testing.assert_array_equal(mask, own[:, 7 - columns])
    left, top, right, bottom = corners(candidates.boxes.numpy()).T
    np.testing.assert_allclose(
        corners(result.boxes.numpy()), np.stack([1 - right, top, 1 - left, bottom], axis=1), atol=1e-6
    )
    assert result.class_probs is candidates.class_probs


@pytest.mark.parametrize("coordinates", [0, 2, 4])
def test_mirrored_twice_is_as_before(coordinates):
    boxes = torch.rand(5, coordinates, generator=torch.Generator().manual_seed(0))
    things = Candidates(torch.rand(5, 3, 4), torch.rand(5), torch.arange(5), torch.ones(5, dtype=torch.bool), boxes)
    again = mirrored(mirrored(things))
    assert torch.equal(again.masks, things.masks)
    torch.testing.assert_close(again.boxes, boxes)


def test_join_of_one_view_is_the_view():
    view = of_rows((0, 3, 0.9, 0, True), (5, 8, 0.7, 2, False))
    assert join_views([view], THRESHOLD) is view


def test_join_averages_one_object_and_takes_its_highest_probability():
    first, second = of_rows((0, 4, 0.8, 0, True)), of_rows((1, 5, 0.6, 0, True))
    joined = join_views([first, second], THRESHOLD)
    assert joined.class_probs.tolist() == pytest.approx([0.8])
    share = 0.8**2 / (0.8**2 + 0.6**2)
    np.testing.assert_allclose(joined.masks[0, 0], [share, 1, 1, 1, 1 - share, 0, 0, 0], atol=1e-6)
    assert torch.equal(joined.boxes, first.boxes)


@pytest.mark.parametrize(
    "other", [(0, 4, 0.6, 1, True), (2, 7, 0.6, 0, True)], ids=["another class", "too little overlap"]
)
def test_join_keeps_other_objects_and_discounts_those_that_the_first_view_lacks(other):
    one = (0, 4, 0.8, 0, True)
    joined = join_views([of_rows(one, (7, 8, 0.1, 3, True)), of_rows(other), of_rows(other)], THRESHOLD)
    # Two of three views have the other, and there are as many candidates as one view has.
    assert joined.class_probs.tolist() == pytest.approx([0.8, 0.6 * 2 / 3])
    assert joined.category_ids.tolist() == [0, other[3]]
    assert torch.equal(joined.masks[1], of_rows(other).masks[0])


def test_join_matches_as_brute_force_does():
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        first, second = random_things(random, 4), random_things(random, 4)
        masks = [np.asarray(view.masks, bool).reshape(4, -1) for view in (first, second)]
        probs = [view.class_probs.double().numpy() for view in (first, second)]
        likeness = np.zeros((4, 4))
        for i, j in itertools.product(range(4), repeat=2):
            iou = (masks[0][i] & masks[1][j]).sum() / (masks[0][i] | masks[1][j]).sum()
            likeness[i, j] = iou * np.sqrt(probs[0][i] * probs[1][j]) if iou >= 0.5 else 0
        best = max(itertools.permutations(range(4)), key=lambda order: likeness[range(4), list(order)].sum())
        expected = [max(probs[0][i], probs[1][j]) if likeness[i, j] else probs[0][i] for i, j in enumerate(best)]
        expected += [probs[1][j] / 2 for i, j in enumerate(best) if not likeness[i, j]]
        joined = join_views([first, second], THRESHOLD)
        np.testing.assert_allclose(joined.class_probs, sorted(expected, reverse=True)[:4], atol=1e-6)


def test_join_averages_stuff_even_where_masks_do_not_meet():
    first, second = of_rows((0, 2, 0.8, 5, False), (2, 8, 0.4, 6, False)), of_rows((4, 8, 0.2, 5, False))
    joined = join_views([first, second, second], THRESHOLD)
    probs = dict(zip(joined.category_ids.tolist(), joined.class_probs.tolist(), strict=True))
    assert probs[6] == pytest.approx(0.4 / 3)
    # The first view's mask of class 5 meets no other: it stays, and the two others are joined.
    assert sorted(joined.class_probs[joined.category_ids == 5].tolist()) == pytest.approx([0.4 / 3, 0.8 / 3])


def test_join_brings_masks_to_the_size_of_the_first_view():
    views = [of_rows((0, 4, 0.8, 0, True)), of_rows((0, 8, 0.8, 0, True), size=(16, 16))]
    joined = join_views(views, THRESHOLD)
    assert joined.masks.shape == (1, 8, 8)
    assert joined.masks.mean() == pytest.approx(0.5, abs=1e-6)
    assert joined.masks[0, :, :3].min() == pytest.approx(1)


def test_join_of_views_with_nothing_in_them():
    nothing = of_rows((0, 4, 0.8, 0, True)).select(torch.tensor([False]))
    assert len(join_views([nothing, nothing], THRESHOLD).masks) == 0
    assert join_views([nothing, of_rows((0, 4, 0.8, 0, True))], THRESHOLD).class_probs.tolist() == pytest.approx([0.4])


def test_join_under_autocast_is_that_without():
    """Large masks have more pixels than half precision can count."""
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 3, 300, 334, generator=random).pow(0.1)  # most pixels are inside
    views = [dataclasses.replace(random_things(random, 3), masks=own) for own in masks]
    expected = join_views(views, THRESHOLD)
    assert expected.masks.gt(THRESHOLD).sum(dim=(1, 2)).min() > torch.finfo(torch.float16).max
    with torch.autocast("cpu", torch.float16):
        found = join_views(views, THRESHOLD)
    torch.testing.assert_close(found.class_probs, expected.class_probs)
    torch.testing.assert_close(found.masks, expected.masks)


def seen_in(image: torch.Tensor) -> Candidates:
    """What an ideal finder sees: the first channel is a thing's mask, the second one stuff's."""
    masks = image[:2]
    columns = masks[0].amax(dim=0).nonzero()[:, 0]
    left, right = columns.min() / image.shape[-1], (columns.max() + 1) / image.shape[-1]
    box = torch.tensor([[(left + right) / 2, 0.5, right - left, 1.0]])
    return Candidates(masks, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), torch.tensor([True, False]), box)


@pytest.mark.parametrize("min_sizes", [(), (8,), (8, 16), (16,)])
@pytest.mark.parametrize("flip", [False, True])
def test_views_of_an_ideal_finder_agree(min_sizes, flip):
    image = torch.zeros(3, 8, 12)
    image[0, :, :5] = image[1, :, 5:] = 1
    calls = []

    def find(images):
        calls.append([tuple(seen.shape[-2:]) for seen in images])
        return [seen_in(seen) for seen in images]

    found = find_in_views(find, image, Views(min_sizes, 100, flip), THRESHOLD)
    assert calls == [[size] * (1 + flip) for size in ({8: (8, 12), 16: (16, 24)}[side] for side in min_sizes or (8,))]
    plain = seen_in(image)
    assert torch.equal(found.category_ids, plain.category_ids)
    torch.testing.assert_close(found.class_probs, plain.class_probs)
    if 16 not in min_sizes:
        torch.testing.assert_close(found.masks, plain.masks)
        torch.testing.assert_close(found.boxes, plain.boxes)
    else:  # Resizing softens the edge between the two.
        edge = round(5 * found.masks.shape[-1] / 12)
        assert found.masks[0, :, : edge - 3].min() > 0.99 > 0.01 > found.masks[0, :, edge + 3 :].max()


def test_views_have_each_size_once_and_a_limit():
    assert Views((100, 200, 400), 300, True).sizes((100, 150)) == [(100, 150), (200, 300)]


def test_views_of_a_config(tiny_config):
    assert Views.from_config(tiny_config()) is None
    cfg = tiny_config("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(96, 128)", "TEST.AUG.FLIP", "False")
    assert Views.from_config(cfg) == Views((96, 128), 4000, False)


@pytest.mark.parametrize("name", ["coco/panoptic_segformer_r50_1x.yaml", "synthetic/panoptic_segformer_lite0.yaml"])
def test_views_that_are_only_switched_on_are_two(config_dir, name):
    views = Views.from_config(load_config(config_dir / name, ["TEST.AUG.ENABLED", "True"]))
    assert views.sizes((800, 1201)) == [(800, 1201)]
    assert views.flip


@pytest.mark.parametrize("sizes", ["(96, 0)", "(96.5,)", "('big',)"])
def test_views_of_impossible_sizes_are_refused(tiny_config, sizes):
    cfg = tiny_config("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", sizes)
    with pytest.raises(ValueError, match=r"TEST\.AUG\.MIN_SIZES"):
        Views.from_config(cfg)


def test_models_without_views_are_refused(config_dir):
    with pytest.raises(ValueError, match="PSFMaskFormer has no test-time augmentation"):
        load_config(config_dir / "synthetic/maskformer_lite0.yaml", ["TEST.AUG.ENABLED", "True"])


def results_of(cfg, plain_weights=None):
    """Results of the validation scenes, and the weights."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if plain_weights:
        model.load_state_dict(plain_weights)
    with torch.no_grad():
        return [
            result for batch in PanopticTrainer.build_test_loader(cfg, "synthetic_val") for result in model(batch)
        ], (model.state_dict())


def test_model_with_the_identity_as_only_view_gives_the_plain_result(tiny_config):
    plain, weights = results_of(tiny_config(*RESULTS))
    for sizes in ("()", "(96,)"):
        seen, _ = results_of(tiny_config(*RESULTS, *AUG, sizes, "TEST.AUG.FLIP", "False"), weights)
        assert len(plain) == len(seen) == 2
        for one, other in zip(plain, seen, strict=True):
            assert torch.equal(one["panoptic_seg"][0], other["panoptic_seg"][0])
            assert one["panoptic_seg"][1] == other["panoptic_seg"][1] != []
            assert torch.equal(one["sem_seg"], other["sem_seg"])
            assert torch.equal(one["instances"].scores, other["instances"].scores)
            assert torch.equal(one["instances"].pred_masks, other["instances"].pred_masks)


@pytest.mark.parametrize(
    "form",
    [
        [],
        [f"{NODE}.QUERIES", "joint"],
        [f"{NODE}.LOCATION_DECODER.LOCATION", "center"],
        [f"{NODE}.LOCATION_DECODER.NUM_LAYERS", "0"],
        [f"{NODE}.SEGMENTS", "things"],
        [f"{NODE}.SEGMENTS", "stuff"],
    ],
    ids=["released", "joint", "center", "no locations", "things", "stuff"],
)
def test_every_form_of_the_model_has_views(tiny_config, form):
    results, _ = results_of(tiny_config(*RESULTS, *form, *AUG, "(96, 64)"))
    for result in results:
        ids, segments = result["panoptic_seg"]
        assert ids.shape == (96, 128)
        assert {0, *(segment["id"] for segment in segments)} >= set(ids.unique().tolist())
        assert segments


def test_training_has_no_views(tiny_config):
    cfg = tiny_config(*AUG, "(96, 64)")
    register_datasets(cfg)
    batch = next(iter(PanopticTrainer.build_train_loader(cfg)))
    model = build_model(cfg).train()
    model.find_candidates = None  # would be called for each view
    assert all(loss.isfinite() for loss in model(batch).values())
