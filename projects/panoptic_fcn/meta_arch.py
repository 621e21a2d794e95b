"""The meta-architecture of Panoptic FCN: pictures to losses in training, to panoptic results otherwise.

Li et al., "Fully Convolutional Networks for Panoptic Segmentation", CVPR 2021, figure 2: a kernel per thing and per
stuff class, found where the position head sees one, and applied to features of the whole picture.
Shape legend: B pictures, C channels, H, W size of the padded batch, H0, W0 size of a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList
from torch import Tensor

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.modeling.padded_model import PaddedModel
from panoptic_segformer.modeling.precision import at_least_float32

from .building import build_parts
from .heads import FeatureEncoder, HeadOutputs, KernelGenerator, KernelHead, PositionHead, SemanticFPN
from .inference import InferenceOptions, Masks, Sizes, combine, find_instances, merge, semantic_result, to_result_size
from .kernels import KernelOptions, fuse_similar, pick_stuff, pick_things
from .losses import Criterion
from .targets import Canvas, PictureTargets, TargetOptions, no_segments, picture_targets

__all__ = ["PSFPanopticFCN"]


@META_ARCH_REGISTRY.register()
class PSFPanopticFCN(PaddedModel):
    """Panoptic segmentation by kernels that a fully convolutional network generates."""

    @configurable
    def __init__(  # noqa: PLR0913  one argument per step of the data flow
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        semantic_fpn: SemanticFPN,
        feature_encoder: FeatureEncoder,
        position_head: PositionHead,
        kernel_head: KernelHead,
        thing_generator: KernelGenerator,
        stuff_generator: KernelGenerator,
        criterion: Criterion,
        target_options: TargetOptions,
        kernel_options: KernelOptions,
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
        self.backbone = backbone
        self.in_features = list(in_features)
        self.semantic_fpn = semantic_fpn
        self.feature_encoder = feature_encoder
        self.position_head = position_head
        self.kernel_head = kernel_head
        self.thing_generator = thing_generator
        self.stuff_generator = stuff_generator
        self.criterion = criterion
        self.target_options = target_options
        self.kernel_options = kernel_options
        self.inference_options = inference_options
        thing_ids = torch.tensor(categories.thing_ids, dtype=torch.int64)
        self.register_buffer("thing_ids", thing_ids, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate a config with the keys of `add_panoptic_fcn_config` to the constructor's arguments."""
        return build_parts(cfg)

    def network(self, images: ImageList) -> HeadOutputs:
        """Return positions and kernels on every level, and the features that kernels are applied to."""
        pyramid = self.backbone(images.tensor)
        features = self.feature_encoder(self.semantic_fpn(pyramid))
        levels = [pyramid[name] for name in self.in_features]
        positions = [self.position_head(level) for level in levels]
        return HeadOutputs(
            thing_logits=[at_least_float32(things) for things, _ in positions],
            stuff_logits=[at_least_float32(stuff) for _, stuff in positions],
            kernel_maps=[at_least_float32(self.kernel_head(level)) for level in levels],
            features=at_least_float32(features),
        )

    def compute_losses(
        self, outputs: HeadOutputs, images: ImageList, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name."""
        canvas = Canvas(tuple(images.tensor.shape[-2:]), [tuple(level.shape[-2:]) for level in outputs.kernel_maps])
        targets = [self.extract_targets(example, canvas) for example in batched_inputs]
        with self._full_precision():
            return self.criterion.losses(outputs, targets, self.thing_generator, self.stuff_generator)

    def extract_targets(self, example: dict[str, Any], canvas: Canvas) -> PictureTargets:
        """Return the truth of a training example; one without things, or without stuff, has none of them."""
        nothing = no_segments(tuple(example["image"].shape[-2:]))
        things, stuff = example.get("instances", nothing), example.get("stuff", nothing)
        return picture_targets(things, stuff, canvas, self.target_options, self.device)

    def picture_results(
        self,
        outputs: HeadOutputs,
        picture: int,
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        size: tuple[int, int],
    ) -> dict[str, Any]:
        """Return `sem_seg`, `instances` and, unless MODEL.INFERENCE.COMBINE.ENABLE is False, `panoptic_seg`.

        `sem_seg` (1 + K_st, H0, W0) has a channel of all things before those of stuff.
        """
        sizes, options = Sizes(padded_size, image_size, size), self.inference_options
        with self._full_precision():
            things, stuff = self.find_masks(outputs.of_picture(picture))
            stuff_probs = to_result_size(stuff.probs, sizes)
            instances = find_instances(things, sizes, self.thing_ids, options)
            results = {
                "sem_seg": semantic_result(stuff, stuff_probs, self.target_options.num_stuff),
                "instances": instances,
            }
            if options.merging is not None:
                results["panoptic_seg"] = merge(things, stuff, sizes, self.categories, options.merging)
            elif options.combine is not None:
                stuff_ids = self.categories.stuff_ids
                results["panoptic_seg"] = combine(instances, stuff, stuff_probs, stuff_ids, options.combine)
        return results

    def find_masks(self, outputs: HeadOutputs) -> tuple[Masks, Masks]:
        """Return the masks of things and of stuff that the network's outputs of one picture stand for."""
        options, maps = self.kernel_options, outputs.kernel_maps
        things = pick_things(outputs.thing_logits, maps, options).embedded(self.thing_generator)
        stuff = pick_stuff(outputs.stuff_logits, maps, options).embedded(self.stuff_generator)
        features = outputs.features
        return Masks.of_kernels(fuse_similar(things, options), features), Masks.of_kernels(stuff, features)

    def _full_precision(self) -> torch.autocast:
        """Sums over masks overflow and thresholds shift in half precision."""
        return torch.autocast(self.device.type, enabled=False)
