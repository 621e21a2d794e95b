"""Training examples: targets that fit the picture after any augmentation, and clear errors."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.structures import BitMasks
from PIL import Image

from panoptic_segformer.data import Categories, PanopticDatasetMapper, register_datasets
from panoptic_segformer.data.augmentations import build_augmentations

HEIGHT, WIDTH = 24, 32
# Contiguous ids of the small dataset: cat 0, grass 1, dog 2, sky 3; labels: cat 0, dog 1 and grass 0, sky 1.
CATEGORIES = Categories((0, 2), (1, 3), ("cat", "dog"), ("grass", "sky"), ((0, 0, 0),) * 2, ((0, 0, 0),) * 2)


def _mapper(augmentations: list, image_format: str = "RGB") -> PanopticDatasetMapper:
    return PanopticDatasetMapper(True, augmentations=augmentations, image_format=image_format, categories=CATEGORIES)


@pytest.fixture
def entries(files) -> list[dict]:
    register_datasets(files.config())
    return DatasetCatalog.get("small")


def test_example_holds_things_and_stuff_but_neither_void_nor_crowd(files, entries: list[dict]) -> None:
    before = copy.deepcopy(entries[0])
    example = PanopticDatasetMapper(files.config(), True)(entries[0])
    assert entries[0] == before

    assert sorted(example) == ["file_name", "height", "image", "image_id", "instances", "stuff", "width"]
    assert (example["image_id"], example["height"], example["width"]) == (1, HEIGHT, WIDTH)
    assert (example["image"].dtype, tuple(example["image"].shape)) == (torch.uint8, (3, HEIGHT, WIDTH))

    things, stuff = example["instances"], example["stuff"]
    assert things.image_size == stuff.image_size == (HEIGHT, WIDTH)
    assert things.gt_classes.dtype == stuff.gt_classes.dtype == torch.int64
    assert things.gt_classes.tolist() == [0]
    assert things.gt_boxes.tensor.tolist() == [[4, 8, 10, 16]]
    cat = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    cat[8:16, 4:10] = True
    assert torch.equal(things.gt_masks.tensor, cat[None])

    assert stuff.gt_classes.tolist() == [0, 1]
    sky = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    sky[:12, :-3] = True
    grass = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    grass[12:, :-3] = True
    grass[20:, :6] = False  # The crowd.
    assert torch.equal(stuff.gt_masks.tensor, torch.stack([grass & ~cat, sky & ~cat]))


def test_example_resizes_ids_without_blending_them(files, entries: list[dict]) -> None:
    plain = PanopticDatasetMapper(files.config(), True)(entries[0])
    cfg = files.config()
    cfg.INPUT.MIN_SIZE_TRAIN = (2 * HEIGHT,)
    doubled = PanopticDatasetMapper(cfg, True)(entries[0])
    assert doubled["image"].shape == (3, 2 * HEIGHT, 2 * WIDTH)
    assert (doubled["height"], doubled["width"]) == (HEIGHT, WIDTH)
    for key in ("instances", "stuff"):
        expected = plain[key].gt_masks.tensor.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(doubled[key].gt_masks.tensor, expected)
    assert doubled["instances"].gt_boxes.tensor.tolist() == [[8, 16, 20, 32]]


def test_example_flips_picture_and_targets_together(entries: list[dict]) -> None:
    plain, flipped = _mapper([])(entries[0]), _mapper([T.HFlipTransform(WIDTH)])(entries[0])
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    for key in ("instances", "stuff"):
        assert torch.equal(flipped[key].gt_masks.tensor, plain[key].gt_masks.tensor.flip(2))
    assert flipped["instances"].gt_boxes.tensor.tolist() == [[WIDTH - 10, 8, WIDTH - 4, 16]]


def test_example_drops_segments_that_a_crop_cuts_away(entries: list[dict]) -> None:
    example = _mapper([T.CropTransform(10, 0, 8, 12)])(entries[0])
    assert len(example["instances"]) == 0
    assert example["stuff"].gt_classes.tolist() == [1]
    assert example["stuff"].gt_masks.tensor.all()


def test_example_cuts_boxes_to_what_a_crop_leaves(entries: list[dict]) -> None:
    example = _mapper([T.CropTransform(6, 10, 20, 10)])(entries[0])
    assert example["instances"].gt_boxes.tensor.tolist() == [[0, 0, 4, 6]]


def test_example_drops_segments_that_a_resize_swallows(files) -> None:
    ids = np.full((HEIGHT, WIDTH), 300)
    ids[5, 5] = 9
    entry = {
        "file_name": str(files.image_path(1)),
        "pan_seg_file_name": str(files.write_png(1, ids)),
        "segments_info": [
            {"id": 300, "category_id": 1, "isthing": False},
            {"id": 9, "category_id": 0, "isthing": True},
        ],
    }
    assert len(_mapper([])(entry)["instances"]) == 1
    assert len(_mapper([T.Resize((6, 8))])(entry)["instances"]) == 0


def test_example_of_a_picture_without_segments_is_empty(files) -> None:
    files.content["annotations"][0]["segments_info"] = []
    files.write_png(1, np.zeros((HEIGHT, WIDTH), dtype=np.int64))
    files.save()
    register_datasets(files.config())
    example = PanopticDatasetMapper(files.config(), True)(DatasetCatalog.get("small")[0])
    for key in ("instances", "stuff"):
        targets = example[key]
        assert len(targets) == 0
        assert (targets.gt_classes.dtype, targets.gt_classes.shape) == (torch.int64, (0,))
        assert (targets.gt_masks.tensor.dtype, targets.gt_masks.tensor.shape) == (torch.bool, (0, HEIGHT, WIDTH))
    assert example["instances"].gt_boxes.tensor.shape == (0, 4)


def test_example_joins_two_segments_of_one_stuff_class(files) -> None:
    ids = np.full((HEIGHT, WIDTH), 300)
    ids[:4] = 301
    ids[4:8] = 0
    entry = {
        "file_name": str(files.image_path(1)),
        "pan_seg_file_name": str(files.write_png(1, ids)),
        "segments_info": [{"id": i, "category_id": 3, "isthing": False} for i in (300, 301)],
    }
    stuff = _mapper([])(entry)["stuff"]
    assert stuff.gt_classes.tolist() == [1]
    np.testing.assert_array_equal(stuff.gt_masks.tensor[0], ids > 0)


def test_example_has_the_channels_of_the_format(entries: list[dict]) -> None:
    rgb, bgr = _mapper([], "RGB")(entries[0])["image"], _mapper([], "BGR")(entries[0])["image"]
    assert torch.equal(rgb, bgr.flip(0))
    assert not torch.equal(rgb, bgr)


def test_inference_gives_the_picture_of_detectron2s_mapper(files, entries: list[dict]) -> None:
    cfg = files.config()
    cfg.INPUT.MIN_SIZE_TEST = 57
    cfg.INPUT.CROP_RESIZE.PROB = 1.0
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    example = PanopticDatasetMapper(cfg, False)(entries[0])
    assert sorted(example) == ["file_name", "height", "image", "image_id", "width"]
    assert example["image"].shape[1] == 57
    assert torch.equal(example["image"], DatasetMapper(cfg, False)(entries[0])["image"])


def _flat_colored_entry(files) -> dict:
    """An entry whose picture shows each segment in a colour of its own, equal to the red of its id."""
    rng = np.random.default_rng(1)
    ids = np.kron(rng.integers(1, 6, (6, 8)) * 40, np.ones((80, 80), dtype=np.int64))
    Image.fromarray(np.repeat(np.uint8(ids)[..., None], 3, 2)).save(files.root / "images" / "flat.png")
    return {
        "file_name": str(files.root / "images" / "flat.png"),
        "pan_seg_file_name": str(files.write_png(3, ids)),
        "segments_info": [{"id": 40 * n, "category_id": n % 3 and 2, "isthing": True} for n in range(1, 6)],
    }


def test_augmented_targets_fit_the_picture_and_are_tight(files) -> None:
    cfg = files.config()
    cfg.INPUT.MIN_SIZE_TRAIN = (200, 260, 320)
    cfg.INPUT.MAX_SIZE_TRAIN = 400
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.CROP_RESIZE.PROB = 0.5
    register_datasets(cfg)
    mapper, entry = PanopticDatasetMapper(cfg, True), _flat_colored_entry(files)
    np.random.seed(0)  # noqa: NPY002  Detectron2 draws from this one
    shapes = set()
    for _ in range(12):
        example = mapper(entry)
        image, things = example["image"][0], example["instances"]
        shapes.add(tuple(image.shape))
        masks = things.gt_masks.tensor
        assert masks.any(dim=(1, 2)).all()
        assert (masks.sum(0) == 1).all()
        assert torch.equal(things.gt_boxes.tensor, BitMasks(masks).get_bounding_boxes().tensor)
        medians = torch.stack([image[mask].median() for mask in masks])
        assert (medians % 40 == 0).all()
        # Colours blend where two segments meet, ids do not.
        painted = (masks * medians[:, None, None]).sum(0)
        assert (painted == image).float().mean() > 0.9
        assert ((painted.int() - image.int()).abs() > 80).float().mean() < 0.005
    assert len(shapes) > 4


def test_crop_policy_is_applied_with_its_probability(files) -> None:
    cfg = files.config()
    cfg.INPUT.MIN_SIZE_TRAIN = (300,)
    cfg.INPUT.MAX_SIZE_TRAIN = 10_000
    register_datasets(cfg)
    image = np.zeros((480, 640, 3), dtype=np.uint8)

    def share_of_cropped(probability: float) -> float:
        cfg.INPUT.CROP_RESIZE.PROB = probability
        augmentations = T.AugmentationList(build_augmentations(cfg, True))
        kept = 0
        for _ in range(60):
            augmented = T.AugInput(image)
            augmentations(augmented)
            assert min(augmented.image.shape[:2]) == 300
            kept += augmented.image.shape[:2] == (300, 400)
        return 1 - kept / 60

    np.random.seed(0)  # noqa: NPY002  Detectron2 draws from this one
    assert share_of_cropped(0) == 0
    assert 0.3 < share_of_cropped(0.5) < 0.7
    assert share_of_cropped(1) > 0.9


def test_crop_policy_crops_between_its_limits(files) -> None:
    cfg = files.config()
    cfg.INPUT.CROP_RESIZE.PROB = 1.0
    crop = build_augmentations(cfg, True)[0]
    np.random.seed(0)  # noqa: NPY002  Detectron2 draws from this one
    sides = set()
    for _ in range(40):
        augmented = T.AugInput(np.zeros((480, 900, 3), dtype=np.uint8))
        transforms = crop(augmented)
        short = min(transforms.transforms[0].new_h, transforms.transforms[0].new_w)
        assert short in cfg.INPUT.CROP_RESIZE.SHORT_SIDES
        height, width = augmented.image.shape[:2]
        assert 384 <= height <= 600
        assert 384 <= width <= 600
        sides.update((height, width))
    assert len(sides) > 20


def test_crop_after_the_resize_has_its_size_or_the_pictures(files) -> None:
    cfg = files.config()
    cfg.INPUT.MIN_SIZE_TRAIN = (300,)
    cfg.INPUT.MAX_SIZE_TRAIN = 10_000
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [200, 500]
    cfg.INPUT.MIN_SIZE_TEST = 480
    for is_train, size in ((True, (200, 400)), (False, (480, 640))):
        augmented = T.AugInput(np.zeros((480, 640, 3), dtype=np.uint8))
        T.AugmentationList(build_augmentations(cfg, is_train))(augmented)
        assert augmented.image.shape[:2] == size


def test_mapper_survives_pickling(files) -> None:
    cfg = files.config()
    cfg.INPUT.MIN_SIZE_TRAIN = (100, 120, 140)
    cfg.INPUT.CROP_RESIZE.PROB = 0.5
    register_datasets(cfg)
    mapper = PanopticDatasetMapper(cfg, True)
    entry = DatasetCatalog.get("small")[0]
    examples = []
    for one in (mapper, pickle.loads(pickle.dumps(mapper))):
        np.random.seed(3)  # noqa: NPY002  Detectron2 draws from this one
        examples.append(one(entry))
    assert torch.equal(examples[0]["image"], examples[1]["image"])
    assert torch.equal(examples[0]["stuff"].gt_masks.tensor, examples[1]["stuff"].gt_masks.tensor)


def test_mapper_works_in_detectron2s_train_loader(files) -> None:
    cfg = files.config()
    cfg.DATALOADER.NUM_WORKERS = 1
    cfg.SOLVER.IMS_PER_BATCH = 2
    register_datasets(cfg)
    batch = next(iter(build_detection_train_loader(cfg, mapper=PanopticDatasetMapper(cfg, True))))
    assert len(batch) == 2
    assert all(len(example["stuff"]) >= 1 for example in batch)


def test_mapper_refuses_an_unreadable_picture(files, entries: list[dict]) -> None:
    files.image_path(1).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"picture .*1\.jpg cannot be read"):
        _mapper([])(entries[0])


def test_mapper_names_a_missing_png(files, entries: list[dict]) -> None:
    (files.root / "png" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png does not exist"):
        _mapper([])(entries[0])


def test_mapper_refuses_a_picture_of_another_size_than_the_json_says(files, entries: list[dict]) -> None:
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(files.image_path(1))
    with pytest.raises(ValueError, match=r"1\.jpg, got \(32, 25\), expect \(32, 24\)"):
        _mapper([])(entries[0])


def test_mapper_refuses_a_png_of_another_size(files, entries: list[dict]) -> None:
    files.write_png(1, np.zeros((HEIGHT, WIDTH - 1), dtype=np.int64))
    with pytest.raises(ValueError, match=r"1\.png has \(height, width\) \(24, 31\), its picture has \(24, 32\)"):
        _mapper([])(entries[0])


def test_mapper_names_png_ids_that_are_not_in_the_json(files, entries: list[dict]) -> None:
    entries[1]["segments_info"] = [entries[1]["segments_info"][0]]
    with pytest.raises(ValueError, match=r"2\.png has 1 segment ids that the json does not list for it: 9;"):
        _mapper([])(entries[1])


def test_mapper_names_json_segments_that_are_not_in_the_png(files, entries: list[dict]) -> None:
    entries[1]["segments_info"].append({"id": 4711, "category_id": 0, "isthing": True, "iscrowd": 0})
    with pytest.raises(ValueError, match=r"2\.png lacks 1 of the 3 segments .*: 4711"):
        _mapper([])(entries[1])


def test_mapper_learns_from_separated_coco(files, tmp_path: Path) -> None:
    semantic = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    semantic[:4] = 53
    Image.fromarray(semantic).save(tmp_path / "semantic.png")
    cfg = files.config()
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic_separated",)
    entry = {
        "file_name": str(files.image_path(1)),
        "sem_seg_file_name": str(tmp_path / "semantic.png"),
        "annotations": [{"category_id": 79, "iscrowd": 0, "segmentation": [[2, 6, 10, 6, 10, 16, 2, 16]]}],
    }
    example = PanopticDatasetMapper(cfg, True)(entry)
    assert example["instances"].gt_classes.tolist() == [79]
    assert example["instances"].gt_boxes.tensor.tolist() == [[2, 6, 10, 16]]
    assert example["stuff"].gt_classes.tolist() == [52]
    assert example["stuff"].gt_masks.tensor.sum() == 4 * WIDTH


def test_mapper_learns_from_standard_coco(files, entries: list[dict]) -> None:
    cfg = files.config()
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic",)
    entries[0]["segments_info"][0]["category_id"] = 132
    entries[0]["segments_info"][1]["category_id"] = 80
    example = PanopticDatasetMapper(cfg, True)(entries[0])
    assert example["stuff"].gt_classes.tolist() == [0, 52]


def test_real_targets_have_the_areas_of_the_json(shared_dir: Path, files) -> None:
    root, cfg = shared_dir / "data" / "coco_tiny_free", files.config("tiny")
    cfg.DATASETS.REGISTER.tiny = CfgNode(
        {"IMAGES": f"{root}/images", "PANOPTIC_JSON": f"{root}/panoptic.json", "PANOPTIC_PNG": f"{root}/panoptic_png"}
    )
    register_datasets(cfg)
    mapper = PanopticDatasetMapper(
        True, augmentations=[], image_format="RGB", categories=Categories.of_datasets(("tiny",))
    )
    for entry in DatasetCatalog.get("tiny"):
        example = mapper(entry)
        for key, isthing, first_id in (("instances", True, 0), ("stuff", False, 80)):
            targets = example[key]
            found = sorted(zip(targets.gt_classes.tolist(), targets.gt_masks.tensor.sum((1, 2)).tolist(), strict=True))
            infos = [s for s in entry["segments_info"] if s["isthing"] == isthing and not s["iscrowd"]]
            assert found == sorted((s["category_id"] - first_id, s["area"]) for s in infos)
        boxes = sorted(
            [x, y, x + w, y + h]
            for x, y, w, h in (s["bbox"] for s in entry["segments_info"] if s["isthing"] and not s["iscrowd"])
        )
        assert sorted(example["instances"].gt_boxes.tensor.tolist()) == boxes


def test_entries_without_isthing_give_the_same_targets(files, entries: list[dict]) -> None:
    mapper, stripped = PanopticDatasetMapper(files.config(), True), copy.deepcopy(entries[0])
    for segment in stripped["segments_info"]:
        del segment["isthing"]
    expected, example = mapper(entries[0]), mapper(stripped)
    for key in ("instances", "stuff"):
        assert torch.equal(example[key].gt_classes, expected[key].gt_classes)
        assert torch.equal(example[key].gt_masks.tensor, expected[key].gt_masks.tensor)
