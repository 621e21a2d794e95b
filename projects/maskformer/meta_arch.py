"""The meta-architecture: pictures to losses in training, to panoptic results otherwise.

The method reads top to bottom here; each step is in the file of its name beside this one.
Paper: Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021.
Shape legend: B pictures, Q queries, K classes, T targets of a picture, H, W size of the padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList
from torch import Tensor
from torch.nn import functional as F

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.modeling.padded_model import PaddedModel
from panoptic_segformer.modeling.precision import at_least_float32

from .building import build_parts
from .classes import JointClasses
from .criterion import Criterion, Targets
from .inference import (
    InferenceOptions,
    instance_result,
    kept_queries,
    mask_wise_result,
    pixel_wise_result,
    resize_masks,
    semantic_result,
)
from .names import convert_names
from .predictor import MaskFormerHead, Prediction

__all__ = ["PSFMaskFormer"]


@META_ARCH_REGISTRY.register()
class PSFMaskFormer(PaddedModel):
    """Panoptic segmentation by queries that predict one class and one mask each, things and stuff alike."""

    @configurable
    def __init__(  # noqa: PLR0913  one argument per step of the data flow
        self,
        *,
        backbone: Backbone,
        sem_seg_head: MaskFormerHead,
        criterion: Criterion,
        deep_supervision: bool,
        inference_options: InferenceOptions,
        categories: Categories,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
    ) -> None:
        super().__init__(
            categories=categories, pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=size_divisibility
        )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.deep_supervision = deep_supervision
        self.inference_options = inference_options
        self.classes = JointClasses(categories)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        """Translate a config with the keys of `add_maskformer_config` to the constructor's arguments."""
        return build_parts(cfg)

    def network(self, images: ImageList) -> list[Prediction]:
        """Return the predictions for a batch (B, 3, H, W), in training of all decoder layers.

        Nothing tells padding from picture, as in the released models.
        """
        return self.sem_seg_head(self.backbone(images.tensor))

    def compute_losses(
        self, outputs: list[Prediction], images: ImageList, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name, see `Criterion`."""
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        targets = [self._targets(example, padded_size) for example in batched_inputs]
        # Matching and losses are taken in full precision: sums over masks overflow half.
        with torch.autocast(self.device.type, enabled=False):
            return self.criterion(outputs if self.deep_supervision else outputs[-1:], targets)

    def count_targets(self, batched_inputs: list[dict[str, Any]]) -> tuple[int]:
        """Return the number of segments that the losses of training examples are divided by."""
        return (sum(len(example["instances"]) + len(example["stuff"]) for example in batched_inputs),)

    def _targets(self, example: dict[str, Any], padded_size: tuple[int, int]) -> Targets:
        """Return the truth of a training example, its masks at the size of the padded batch."""
        things, stuff = example["instances"].to(self.device), example["stuff"].to(self.device)
        masks = things.gt_masks.cat([things.gt_masks, stuff.gt_masks]).tensor
        height, width = things.image_size
        padding = (0, padded_size[1] - width, 0, padded_size[0] - height)
        return Targets(self.classes.of_example(things.gt_classes, stuff.gt_classes), F.pad(masks, padding))

    def picture_results(
        self,
        outputs: list[Prediction],
        picture: int,
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        size: tuple[int, int],
    ) -> dict[str, Any]:
        """Return the results of one picture that the config asks for: `panoptic_seg`, `instances`, `sem_seg`."""
        options = self.inference_options
        class_probs = at_least_float32(outputs[-1].class_logits[picture]).softmax(-1)
        mask_logits = outputs[-1].mask_logits[picture]
        if not (options.outputs.semantic or options.outputs.instances or options.merging):
            kept = kept_queries(class_probs, options)  # the only ones whose masks are used
            class_probs, mask_logits = class_probs[kept], mask_logits[kept]
        masks = resize_masks(mask_logits, padded_size, image_size, size)
        results: dict[str, Any] = {}
        if options.outputs.semantic:
            results["sem_seg"] = semantic_result(class_probs, masks, self.classes)
        if options.outputs.panoptic and options.merging:
            results["panoptic_seg"] = mask_wise_result(class_probs, masks, self.classes, options.merging)
        elif options.outputs.panoptic:
            results["panoptic_seg"] = pixel_wise_result(class_probs, masks, self.classes, options)
        if options.outputs.instances:
            results["instances"] = instance_result(class_probs, masks, self.classes)
        return results

    def convert_state_dict(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return tensors under the names of this model."""
        return convert_names(state_dict)
