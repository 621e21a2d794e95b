"""Any `features_only` model of timm as a Detectron2 backbone.

Detectron2's own ResNet needs none of this. Shape legend: B pictures, C channels, H, W input size.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

from ..checkpoint.backbone import load_timm_weights

__all__ = ["TimmBackbone", "build_timm_backbone"]


class TimmBackbone(Backbone):
    """Features of a timm model, named by their stride as Detectron2's ResNet names them (res3 = stride 8)."""

    def __init__(self, name: str, strides: list[int], weights: str = "", freeze_batch_norm: bool = True) -> None:
        super().__init__()
        import timm  # Not needed by models with Detectron2's ResNet, and slow to import.

        model = timm.create_model(name, features_only=True, pretrained=False)
        reductions = model.feature_info.reduction()
        missing = [stride for stride in strides if stride not in reductions]
        if missing:
            raise ValueError(f"timm model {name!r} has no features at strides {missing}, it has {reductions}")
        indices = [reductions.index(stride) for stride in strides]
        self.model = timm.create_model(name, features_only=True, pretrained=False, out_indices=indices)
        if weights:
            load_timm_weights(self.model, weights)
        if freeze_batch_norm:
            # timm's batch norm may hold an activation, which Detectron2's own conversion would drop.
            self.model = timm.layers.freeze_batch_norm_2d(self.model)
        self._out_features = [f"res{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        channels = self.model.feature_info.channels()
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map normalised images: (B, 3, H, W) to features by name, each (B, C, H / stride, W / stride)."""
        return dict(zip(self._out_features, self.model(images), strict=True))


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the backbone of MODEL.TIMM."""
    del input_shape  # Pictures have three channels.
    node = cfg.MODEL.TIMM
    return TimmBackbone(node.NAME, list(node.STRIDES), node.WEIGHTS, node.FREEZE_BATCH_NORM)
