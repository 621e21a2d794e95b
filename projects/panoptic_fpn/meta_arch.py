"""Panoptic FPN as Detectron2 has it, between our training examples and our panoptic results.

Network, losses and the way that things and stuff are combined are Detectron2's; its state dict is unchanged, so its
checkpoints load. The truth differs: here a pixel has one segment, while the zoo's models learned instance annotations
that overlap, and crowds are unlabelled, whose pixels they learned as things.
Shape legend: H, W size of a picture, H0, W0 size of its results, K_th, K_st classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import PanopticFPN
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage, has_event_storage
from torch import Tensor

from panoptic_segformer.checkpoint.loading import load_with_summary
from panoptic_segformer.checks import check_backbone
from panoptic_segformer.class_numbers import with_class_numbers
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.data.datasets import configured_categories
from panoptic_segformer.data.semantic import UNLABELLED, semantic_labels
from panoptic_segformer.inference.merging import MergeOptions
from panoptic_segformer.modeling.precision import at_least_float32

from .segments import CombineOptions, combined_segments, merged_segments

__all__ = ["PSFPanopticFPN"]


@META_ARCH_REGISTRY.register()
class PSFPanopticFPN(PanopticFPN):
    """Mask R-CNN for things and a semantic head for stuff, on one feature pyramid."""

    @configurable
    def __init__(self, *, categories: Categories, merging: MergeOptions | None, **kwargs: Any) -> None:
        """Build the model.

        Args:
            categories: the classes of the model's dataset.
            merging: thresholds of mask-wise merging; None combines things and stuff as Detectron2 does.
            kwargs: those of Detectron2's PanopticFPN.
        """
        super().__init__(**kwargs)
        self.categories = categories
        self.merging = merging
        self.combining = CombineOptions(
            self.combine_overlap_thresh, self.combine_stuff_area_thresh, self.combine_instances_score_thresh
        )
        ids = torch.tensor(categories.thing_ids, dtype=torch.int64)
        self.register_buffer("thing_ids", ids, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate a config with the keys of `add_panoptic_fpn_config` to the constructor's arguments.

        Raises: ValueError: if the config does not fit its dataset, or makes no masks.
        """
        categories = configured_categories(cfg)
        check_backbone(cfg)
        if cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE != UNLABELLED:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE}, but pixels without truth "
                f"are {UNLABELLED} in training examples: set it to {UNLABELLED}"
            )
        if not cfg.MODEL.MASK_ON:
            raise ValueError("MODEL.MASK_ON is False, but panoptic results are made of masks: set it to True")
        if not categories.num_things:
            raise ValueError("Panoptic FPN needs a thing class, but the dataset has none: choose another model")
        cfg = with_class_numbers(
            cfg,
            {
                "MODEL.ROI_HEADS.NUM_CLASSES": categories.num_things,
                "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 1 + categories.num_stuff,
            },
        )
        node = cfg.MODEL.MASK_WISE_MERGING
        merging = MergeOptions.from_config(node) if node.ENABLED else None
        return {**super().from_config(cfg), "categories": categories, "merging": merging}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Return losses by name in training, otherwise one dict of results per picture.

        Args:
            batched_inputs: dicts with `image` (3, H, W) in the channel order of INPUT.FORMAT, values 0 to 255;
                in training `instances` and `stuff` as PanopticDatasetMapper makes them; otherwise optionally
                `height` and `width` of the results.
        """
        if not self.training:
            return self.inference(batched_inputs)
        examples = [
            {**example, "sem_seg": semantic_labels(example["instances"], example["stuff"])}
            for example in batched_inputs
        ]
        # Detectron2's heads count as they learn; outside its trainer nobody reads that.
        with nullcontext() if has_event_storage() else EventStorage():
            losses = super().forward(examples)
        if all((example["sem_seg"] == UNLABELLED).all() for example in examples):
            # A mean over no pixel is 0 / 0; it has no gradient.
            losses["loss_sem_seg"] = losses["loss_sem_seg"].nan_to_num()
        return losses

    def inference(
        self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True
    ) -> list[dict[str, Any]] | tuple[list[Instances], Tensor]:
        """Return one dict of results per picture, or the raw outputs of both heads.

        Args:
            batched_inputs: as `forward` takes them.
            do_postprocess: False returns what the heads give: detections, and semantic logits (B, 1 + K_st, H, W).
        """
        detections, logits = super().inference(batched_inputs, do_postprocess=False)
        if not do_postprocess:
            return detections, logits
        results = []
        for example, own_detections, own_logits in zip(batched_inputs, detections, logits, strict=True):
            height, width = own_detections.image_size
            size = (example.get("height", height), example.get("width", width))
            results.append(self.picture_results(own_detections, own_logits, size))
        return results

    def picture_results(self, detections: Instances, logits: Tensor, size: tuple[int, int]) -> dict[str, Any]:
        """Return the results of one picture.

        Args:
            detections: of the picture without padding; masks (N, 1, M, M) in their boxes.
            logits: (1 + K_st, H, W) of the padded picture.
            size: (H0, W0).
        Returns: `panoptic_seg`; `instances`, classes as contiguous ids; `sem_seg` (1 + K_st, H0, W0), logits of all
            things together and of each stuff class (contiguous ids in the "separated" form of metadata).
        """
        semantic = sem_seg_postprocess(at_least_float32(logits), detections.image_size, *size)
        things = detector_postprocess(_copied(detections), *size)
        if self.merging is None:
            panoptic = combined_segments(things, semantic, self.categories, self.combining)
        else:
            panoptic = merged_segments(_copied(detections), semantic, self.categories, self.merging)
        things.pred_classes = self.thing_ids[things.pred_classes]
        return {"panoptic_seg": panoptic, "instances": things, "sem_seg": semantic}

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> torch.nn.modules.module._IncompatibleKeys:
        """Load as torch does, log what was loaded and what was not, and refuse weights of another model."""
        return load_with_summary(self, super().load_state_dict, state_dict, strict, assign)


def _copied(detections: Instances) -> Instances:
    """Return detections with boxes of their own, as Detectron2 scales them in place, and nothing in half precision.

    Masks are pasted on a grid of their own precision: half of it moves them by pixels.
    """
    fields = {
        **detections.get_fields(),
        "pred_boxes": Boxes(at_least_float32(detections.pred_boxes.tensor).clone()),
        "pred_masks": at_least_float32(detections.pred_masks),
        "scores": at_least_float32(detections.scores),
    }
    return Instances(detections.image_size, **fields)
