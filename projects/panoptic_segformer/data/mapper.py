"""Turn one dataset dict into an augmented training example with thing and stuff targets.

Picture and segment ids go through the same transforms, and masks, boxes and classes are made from what is
left of the ids, so nothing can disagree after a crop. Void and crowd pixels belong to no target.
Shape legend: H, W size after augmentation, T, U thing and stuff targets, K_th, K_st classes.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from panopticapi.utils import rgb2id

from .augmentations import build_augmentations
from .cache import DecodedCache
from .categories import Categories
from .reading import ids_present, read_picture
from .segments import Segment, read_segments

__all__ = ["PanopticDatasetMapper"]

logger = logging.getLogger(__name__)

# Entries of a dataset dict that describe the truth of the whole picture, before augmentation.
_TRUTH_KEYS = ("annotations", "pan_seg_file_name", "sem_seg_file_name", "segments_info")


class PanopticDatasetMapper:
    """Read and augment one picture; in training with its targets.

    The result is Detectron2's dict (file_name, image_id, original height and width, image uint8 (3, H, W))
    and in training `instances` (gt_classes (T,) int64 in [0, K_th), gt_boxes xyxy pixels, gt_masks (T, H, W))
    and `stuff` (gt_classes (U,) int64 in [0, K_st), gt_masks (U, H, W)).
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        categories: Categories | None,
        cache: DecodedCache | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            is_train: whether targets are made.
            augmentations: applied in this order.
            image_format: order of the channels, "RGB" or "BGR".
            categories: the classes of the targets, needed in training only.
            cache: where decoded pictures are kept in training.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.cache = cache
        if is_train:
            self.thing_labels = {id_: label for label, id_ in enumerate(categories.thing_ids)}
            self.stuff_labels = {id_: label for label, id_ in enumerate(categories.stuff_ids)}

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor that a config stands for."""
        augmentations = build_augmentations(cfg, is_train)
        logger.info("augmentations in %s: %s", "training" if is_train else "inference", augmentations)
        folder = cfg.DATALOADER.CACHE_DIR if is_train else ""
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "categories": Categories.of_datasets(cfg.DATASETS.TRAIN) if is_train else None,
            "cache": DecodedCache(folder, cfg.INPUT.FORMAT) if folder else None,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the example of one dataset dict, which stays as it is.

        Raises: FileNotFoundError, ValueError: if a file is missing, damaged or does not fit the json.
        """
        example = {key: value for key, value in dataset_dict.items() if key not in _TRUTH_KEYS}
        if self.cache is None:
            image, colors, segments = self.decode(dataset_dict)
        else:
            image, colors, segments = self.cache.get(dataset_dict, lambda: self.decode(dataset_dict))
        example.setdefault("width", image.shape[1])
        example.setdefault("height", image.shape[0])

        augmented = T.AugInput(image, sem_seg=colors)
        self.augmentations(augmented)
        example["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if self.is_train:
            example["instances"], example["stuff"] = self._targets(rgb2id(augmented.sem_seg), segments)
        return example

    def decode(self, dataset_dict: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None, list[Segment]]:
        """Return the picture (H, W, 3) uint8 and, in training, its segment colours (H, W, 3) uint8 and segments.

        Raises: as calling the mapper.
        """
        image = read_picture(dataset_dict["file_name"], self.image_format)
        detection_utils.check_image_size(dict(dataset_dict), image)
        if not self.is_train:
            return image, None, []
        return image, *read_segments(dataset_dict, image.shape[:2], self.thing_labels)

    def _targets(self, ids: np.ndarray, segments: list[Segment]) -> tuple[Instances, Instances]:
        # Segments that a crop cut away or a resize swallowed are gone.
        present = set(ids_present(ids).tolist())
        things, stuff = [], defaultdict(list)
        for segment in segments:
            if segment.id not in present:
                continue
            if segment.isthing:
                things.append((self.thing_labels[segment.category_id], [segment.id]))
            else:
                # There is one query per stuff class, so its segments are one target.
                stuff[self.stuff_labels[segment.category_id]].append(segment.id)
        thing_targets = _instances(ids, things)
        thing_targets.gt_boxes = thing_targets.gt_masks.get_bounding_boxes()
        return thing_targets, _instances(ids, sorted(stuff.items()))


def _instances(ids: np.ndarray, targets: list[tuple[int, list[int]]]) -> Instances:
    """Return classes and masks of targets, each a label with the ids of its segments; ids is (H, W) int32."""
    id_map = torch.from_numpy(ids)
    masks = torch.zeros(len(targets), *ids.shape, dtype=torch.bool)
    for mask, (_, segment_ids) in zip(masks, targets, strict=True):
        for segment_id in segment_ids:
            mask |= id_map == segment_id
    classes = torch.tensor([label for label, _ in targets], dtype=torch.int64)
    return Instances(ids.shape, gt_classes=classes, gt_masks=BitMasks(masks))
