"""Panoptic-DeepLab from Detectron2's parts, between our training examples and our panoptic results.

Backbone, heads, losses, targets and grouping are Detectron2's; so are the names in the state dict.
Shape legend: B pictures, H, W size of the padded batch, K thing and stuff classes, H0, W0 size of a result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, build_sem_seg_head
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.projects.panoptic_deeplab import build_ins_embed_branch
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_segformer.checks import check_backbone
from panoptic_segformer.class_numbers import with_class_numbers
from panoptic_segformer.data.datasets import configured_categories
from panoptic_segformer.modeling.padded_model import PaddedModel
from panoptic_segformer.modeling.precision import at_least_float32

from .channels import Channels
from .segments import GroupingOptions, instance_result, panoptic_result
from .targets import TargetMaker

__all__ = ["PSFPanopticDeepLab"]


@dataclass(frozen=True)
class Predictions:
    """What the heads predict for every pixel of a batch.

    Attributes:
        semantic: (B, K, H, W) logits.
        centers: (B, 1, H, W) heat-map.
        offsets: (B, 2, H, W) pixels, of rows and of columns.
    """

    semantic: Tensor
    centers: Tensor
    offsets: Tensor


@META_ARCH_REGISTRY.register()
class PSFPanopticDeepLab(PaddedModel):
    """Semantic segmentation, whose thing pixels are grouped around predicted centres."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        ins_embed_head: nn.Module,
        target_maker: TargetMaker,
        grouping: GroupingOptions,
        with_instances: bool,
        scale_offsets: bool,
        size_multiples: tuple[int, int],
        **kwargs: Any,
    ) -> None:
        """Build the model.

        Args:
            backbone: of both heads.
            sem_seg_head: of classes.
            ins_embed_head: of centres and offsets.
            target_maker: makes the truth of both.
            grouping: thresholds.
            with_instances: whether `instances` are among the results.
            scale_offsets: see MODEL.PANOPTIC_DEEPLAB.SCALE_OFFSETS.
            size_multiples: batches are padded to multiples of this height and width.
            kwargs: those of PaddedModel.
        """
        super().__init__(**kwargs)
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.ins_embed_head = ins_embed_head
        self.target_maker = target_maker
        self.grouping = grouping
        self.with_instances = with_instances
        self.scale_offsets = scale_offsets
        self.size_multiples = size_multiples

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate a config with the keys of `add_panoptic_deeplab_config` to the constructor's arguments.

        Raises: ValueError: if the config does not fit its dataset, or has a loss that does not work.
        """
        categories = configured_categories(cfg)
        check_backbone(cfg)
        _check_heads(cfg)
        channels = Channels.of(categories)
        cfg = with_class_numbers(cfg, {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": len(channels)})
        node = cfg.MODEL.PANOPTIC_DEEPLAB
        backbone = build_backbone(cfg)
        _check_features(cfg, backbone)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "ins_embed_head": build_ins_embed_branch(cfg, backbone.output_shape()),
            "target_maker": TargetMaker.from_config(cfg, channels),
            "grouping": GroupingOptions.from_config(node),
            "with_instances": node.PREDICT_INSTANCES,
            "scale_offsets": node.SCALE_OFFSETS,
            "size_multiples": _size_multiples(cfg, backbone),
            "categories": categories,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Return the normalised pictures as one batch, padded with zeros to a size that the heads take."""
        images = super().preprocess(batched_inputs)
        sides = images.tensor.shape[-2:]
        bottom, right = (-side % multiple for side, multiple in zip(sides, self.size_multiples, strict=True))
        return ImageList(F.pad(images.tensor, (0, right, 0, bottom)), images.image_sizes)

    def network(self, images: ImageList) -> dict[str, Tensor] | Predictions:
        """Return the backbone's features in training, where the heads give losses alone, otherwise predictions."""
        features = self.backbone(images.tensor)
        if self.training:
            return features
        semantic, _ = self.sem_seg_head(features)
        centers, offsets, *_ = self.ins_embed_head(features)
        return Predictions(semantic, centers, offsets)

    def compute_losses(
        self, outputs: dict[str, Tensor], images: ImageList, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor]:
        """Return the weighted losses of classes, centres and offsets; outputs are the backbone's features."""
        targets = self.target_maker(batched_inputs, tuple(images.tensor.shape[-2:]))
        targets = {key: target.to(self.device) for key, target in targets.items()}
        _, semantic_losses = self.sem_seg_head(outputs, targets["sem_seg"], targets["sem_seg_weights"])
        *_, center_losses, offset_losses = self.ins_embed_head(
            outputs, targets["center"], targets["center_weights"], targets["offset"], targets["offset_weights"]
        )
        return semantic_losses | center_losses | offset_losses

    def picture_results(
        self,
        outputs: Predictions,
        picture: int,
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        size: tuple[int, int],
    ) -> dict[str, Any]:
        """Return the results of one picture, see PaddedModel.

        Returns: `panoptic_seg`; `sem_seg` (K, H0, W0), logits by contiguous id; `instances` where they are asked for.
        """
        semantic, centers, offsets = (
            sem_seg_postprocess(at_least_float32(maps[picture]), image_size, *size)
            for maps in (outputs.semantic, outputs.centers, outputs.offsets)
        )
        if self.scale_offsets:
            offsets = offsets * (offsets.new_tensor(size) / offsets.new_tensor(image_size)).view(2, 1, 1)
        channels = self.target_maker.channels
        panoptic = panoptic_result(semantic, centers, offsets, channels, self.grouping)
        results = {"panoptic_seg": panoptic, "sem_seg": channels.by_category(semantic)}
        if self.with_instances:
            results["instances"] = instance_result(*panoptic)
        return results


def _size_multiples(cfg: CfgNode, backbone: Backbone) -> tuple[int, int]:
    """Return what height and width of a batch must be multiples of.

    Features of all strides then end with the picture, as the losses need it. Where a crop is given, ASPP averages over
    windows of the crop's size, which must fill the picture without rest.
    """
    stride = max(shape.stride for shape in backbone.output_shape().values())
    asked = max(cfg.MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY, backbone.size_divisibility, 1)
    height, width = cfg.INPUT.CROP.SIZE if cfg.INPUT.CROP.ENABLED else (1, 1)
    return math.lcm(stride, asked, height), math.lcm(stride, asked, width)


def _check_features(cfg: CfgNode, backbone: Backbone) -> None:
    """Raise ValueError if a head asks for features that the backbone does not give."""
    given = list(backbone.output_shape())
    for name in ("SEM_SEG_HEAD", "INS_EMBED_HEAD"):
        asked = list(cfg.MODEL[name].IN_FEATURES)
        if not set(asked) <= set(given):
            raise ValueError(
                f"MODEL.{name}.IN_FEATURES is {asked}, but the backbone gives {given}: choose from these, or let the "
                "backbone give others by MODEL.RESNETS.OUT_FEATURES or MODEL.TIMM.STRIDES"
            )


def _check_heads(cfg: CfgNode) -> None:
    """Raise ValueError where Detectron2 would end in an assertion, or in a TypeError when training starts."""
    node = cfg.MODEL.SEM_SEG_HEAD
    if node.LOSS_TYPE != "hard_pixel_mining":
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.LOSS_TYPE is {node.LOSS_TYPE!r}, which Detectron2 can't weight by pixel: set it to "
            "'hard_pixel_mining'; with LOSS_TOP_K 1.0 that is the cross entropy of all pixels"
        )
    if cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE != "absolute":
        raise ValueError(
            f"INPUT.CROP.TYPE is {cfg.INPUT.CROP.TYPE!r}: set it to 'absolute', for which the heads are built"
        )
    asked = cfg.MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV
    if asked != node.USE_DEPTHWISE_SEPARABLE_CONV:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV is {node.USE_DEPTHWISE_SEPARABLE_CONV}, but that of "
            f"MODEL.PANOPTIC_DEEPLAB {asked}: set both to the same"
        )
