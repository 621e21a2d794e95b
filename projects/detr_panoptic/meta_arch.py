"""The meta-architecture: pictures to losses in training, to panoptic results otherwise.

Paper: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, figures 2 and 8.
Shape legend: B pictures, D model width, h, w size of the coarsest feature, H1, W1 of the finest, Q queries, R rows of
the class head ("no object" last), N queries of one picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from panoptic_segformer.checkpoint.loading import read_checkpoint
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.modeling.levels import FeatureLevels, Size
from panoptic_segformer.modeling.mlp import PredictionMLP
from panoptic_segformer.modeling.padded_model import PaddedModel
from panoptic_segformer.modeling.precision import at_least_float32
from panoptic_segformer.training.matcher import Match
from panoptic_segformer.training.ranks import mean_over_ranks
from panoptic_segformer.training.targets import PictureTargets, SegmentTargets

from .building import build_parts
from .checkpoint import convert_upstream, is_upstream
from .class_rows import ClassRows
from .criterion import Criterion, prediction_errors
from .inference import InferenceOptions, Predictions, instance_result, merge_by_masks, merge_by_pixels
from .mask_head import AttentionMaps, MaskHead
from .transformer import Transformer

__all__ = ["DetrOutputs", "PSFDetrPanoptic"]

# Queries whose masks are made at once in inference: a hundred at a time would take gigabytes.
QUERIES_AT_ONCE = 16


@dataclass(frozen=True)
class DetrOutputs:
    """What the network makes of a batch; masks are made later, of the queries that need them.

    Attributes:
        level: the projected coarsest feature (B, D, h, w) with the pictures' own sizes in it.
        fine: the other features, coarsest of them first.
        memory: (B, D, h, w).
        queries: (B, Q, D), behind the last decoder layer.
        class_logits: (B, Q, R) per decoder layer that is looked at.
        boxes: (B, Q, 4) likewise, (cx, cy, w, h) in [0, 1] of each picture's own area.
    """

    level: FeatureLevels
    fine: list[Tensor]
    memory: Tensor
    queries: Tensor
    class_logits: list[Tensor]
    boxes: list[Tensor]


@META_ARCH_REGISTRY.register()
class PSFDetrPanoptic(PaddedModel):
    """DETR: a transformer predicts all segments at once; a mask head turns its attention into masks."""

    @configurable
    def __init__(  # noqa: PLR0913  one argument per part
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        transformer: Transformer,
        dim: int,
        num_queries: int,
        bbox_attention: AttentionMaps | None,
        mask_head: MaskHead | None,
        classes: ClassRows,
        criterion: Criterion,
        deep_supervision: bool,
        frozen_weights: str,
        inference_options: InferenceOptions,
        categories: Categories,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(
            categories=categories,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            size_divisibility=backbone.size_divisibility,
        )
        self.in_features = list(in_features)
        self.classes = classes
        self.criterion = criterion
        # Frozen boxes have no losses; their last layer is all that masks are matched by.
        self.deep_supervision = deep_supervision and not frozen_weights
        self.inference_options = inference_options
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in in_features]
        self.backbone = backbone
        self.input_proj = nn.Conv2d(shapes[in_features[-1]].channels, dim, kernel_size=1)
        self.transformer = transformer
        self.query_embed = nn.Embedding(num_queries, dim)
        self.class_embed = nn.Linear(dim, classes.num_rows)
        self.bbox_embed = PredictionMLP([dim, dim, dim, 4])
        self.bbox_attention = bbox_attention
        self.mask_head = mask_head
        self.register_buffer("class_rows", torch.tensor(classes.rows), persistent=False)
        ids = torch.tensor([*categories.thing_ids, *categories.stuff_ids])
        self.register_buffer("category_ids", ids, persistent=False)
        self.is_frozen = bool(frozen_weights)
        if self.is_frozen:
            self._freeze_boxes(frozen_weights)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        """Translate a config with the keys of `add_detr_panoptic_config` to the constructor's arguments."""
        return build_parts(cfg)

    def network(self, images: ImageList) -> DetrOutputs:
        """Return everything but the masks.

        A cell is padding if it has no pixel of its picture, as in the authors' Detectron2 wrapper. Their own code asks
        one pixel of each cell, so that a row or column more may count as picture.
        """
        features = self.backbone(images.tensor)
        *fine, coarsest = (features[name] for name in self.in_features)
        sizes = [[_size_at_stride(size, self.strides[-1])] for size in images.image_sizes]
        level = FeatureLevels([self.input_proj(coarsest)], sizes)
        memory, queries = self.transformer(level, self.query_embed.weight)
        seen = queries if self.deep_supervision else queries[-1:]
        return DetrOutputs(
            level=level,
            fine=fine[::-1],
            memory=memory,
            queries=queries[-1],
            class_logits=[self.class_embed(layer) for layer in seen],
            boxes=[self.bbox_embed(layer).sigmoid() for layer in seen],
        )

    def mask_logits(self, outputs: DetrOutputs, picture: int, queries: Tensor) -> Tensor:
        """Return the masks (N, H1, W1) of some queries (N,) int64 of a picture, padding included."""
        padding = outputs.level.padding
        if padding is not None:
            padding = padding[picture].view(outputs.level.shapes[0])
        maps = self.bbox_attention(outputs.queries[picture, queries], outputs.memory[picture], padding)
        return self.mask_head(maps, outputs.level.maps[0][picture], [feature[picture] for feature in outputs.fine])

    def compute_losses(
        self, outputs: DetrOutputs, images: ImageList, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor]:
        """Return the weighted losses; where all but the mask head is frozen, those of masks alone.

        Names are the authors'; those of the decoder layers before the last end with the layer's number.
        """
        targets = [self.extract_targets(example) for example in batched_inputs]
        number = max(mean_over_ranks([sum(len(target.classes) for target in targets)], self.device)[0], 1.0)
        losses: dict[str, Tensor] = {}
        with torch.autocast(self.device.type, enabled=False):
            for layer, (logits, boxes) in enumerate(zip(outputs.class_logits, outputs.boxes, strict=True)):
                matches = [self.criterion.match(*own) for own in zip(logits, boxes, targets, strict=True)]
                of_layer = self.criterion.class_and_box_losses(logits, boxes, targets, matches, number)
                is_last = layer == len(outputs.boxes) - 1
                losses |= of_layer if is_last else {f"{name}_{layer}": loss for name, loss in of_layer.items()}
        if has_event_storage():
            get_event_storage().put_scalars(**prediction_errors(outputs.class_logits[-1], targets, matches))
        if self.is_frozen:
            losses.clear()
        if self.mask_head is not None:
            losses |= self._mask_losses(outputs, tuple(images.tensor.shape[-2:]), targets, matches, number)
        return losses

    def count_targets(self, batched_inputs: list[dict[str, Any]]) -> tuple[int]:
        """Return the number of segments that the losses of training examples are divided by."""
        return (sum(len(example["instances"]) + len(example["stuff"]) for example in batched_inputs),)

    def extract_targets(self, example: dict[str, Any]) -> SegmentTargets:
        """Return things and stuff of a training example as one set; their classes are rows of the class head.

        Boxes enclose the pixels of the masks, and crowds are left out. The authors' boxes end where the last row and
        column of pixels begin, one pixel earlier, and crowds are segments like others.
        """
        halves = PictureTargets.from_instances(
            example["instances"], example["stuff"], self.pixel_mean, with_stuff_locations=True
        )
        targets = halves.joined(self.categories.num_things)
        return dataclasses.replace(targets, classes=self.class_rows[targets.classes])

    def _mask_losses(
        self, outputs: DetrOutputs, size: Size, targets: list[SegmentTargets], matches: list[Match], number: float
    ) -> dict[str, Tensor]:
        """Return the losses of matched queries' masks: those of others would take memory and teach nothing."""
        logits = [self.mask_logits(outputs, picture, match.queries) for picture, match in enumerate(matches)]
        truth = [target.masks[match.targets] for target, match in zip(targets, matches, strict=True)]
        with torch.autocast(self.device.type, enabled=False):
            return self.criterion.mask_losses(logits, truth, size, number)

    def picture_results(
        self, outputs: DetrOutputs, picture: int, padded_size: Size, image_size: Size, size: Size
    ) -> dict[str, Any]:
        """Return `panoptic_seg`, and `instances` on request; a model without mask head has these alone, boxes only.

        Masks are made of the queries that can matter.
        """
        del padded_size  # Masks are cut to the picture's own area before they are resized.
        options = self.inference_options
        found = self.classify(outputs, picture)
        if self.mask_head is None:
            return {"instances": instance_result(found, image_size, size, options.mask_threshold)}
        is_segment = found.is_segment(options)
        needed = is_segment | found.is_thing if options.with_instances else is_segment
        queries = needed.nonzero()[:, 0]
        height, width = _size_at_stride(image_size, self.strides[0])
        chunks = [
            self.mask_logits(outputs, picture, some)[:, :height, :width] for some in queries.split(QUERIES_AT_ONCE)
        ]
        found = dataclasses.replace(found.select(queries), logits=at_least_float32(torch.cat(chunks)))
        segments = found.select(is_segment[queries])
        if options.merging is None:
            panoptic = merge_by_pixels(segments, image_size, size, compat_dedup=options.compat_dedup)
        else:
            panoptic = merge_by_masks(segments, size, options.merging)
        results: dict[str, Any] = {"panoptic_seg": panoptic}
        if options.with_instances:
            results["instances"] = instance_result(found, image_size, size, options.mask_threshold)
        return results

    def classify(self, outputs: DetrOutputs, picture: int) -> Predictions:
        """Return all queries of a picture with their best class, without masks."""
        probs = at_least_float32(outputs.class_logits[-1][picture]).softmax(-1)
        class_probs, labels = probs[:, self.class_rows].max(-1)
        return Predictions(
            class_probs=class_probs,
            is_object=class_probs > probs[:, -1],
            category_ids=self.category_ids[labels],
            is_thing=labels < self.categories.num_things,
            boxes=at_least_float32(outputs.boxes[-1][picture]),
        )

    def convert_state_dict(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return tensors under the names of this model; the forms of DETR's authors are recognised."""
        return convert_upstream(state_dict, self.classes) if is_upstream(state_dict) else state_dict

    def _freeze_boxes(self, weights: str) -> None:
        """Load a trained box model and let the mask head alone learn."""
        content = read_checkpoint(weights)
        self.load_state_dict(content.get("model", content), strict=False)
        for name, parameter in self.named_parameters():
            if not name.startswith(("bbox_attention.", "mask_head.")):
                parameter.requires_grad_(False)


def _size_at_stride(size: Size, stride: int) -> Size:
    height, width = size
    return -(-height // stride), -(-width // stride)
