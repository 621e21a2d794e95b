"""`features_only` models of timm as Detectron2 backbones.

Detectron2's own ResNet needs none of this. Shape legend: B pictures, C channels, H, W input size.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ..checkpoint.backbone import load_timm_weights

__all__ = ["TimmBackbone", "build_timm_backbone"]


class TimmBackbone(Backbone):
    """Features of a timm model, named by their stride as Detectron2's ResNet names them (res3 = stride 8)."""

    def __init__(
        self,
        name: str,
        strides: list[int],
        *,
        weights: str = "",
        freeze_batch_norm: bool = True,
        freeze_at: int = 0,
    ) -> None:
        """Build the backbone.

        Args:
            name: timm's name of the model.
            strides: strides of the features to return, finest first.
            weights: see `load_timm_weights`; "" leaves the weights random.
            freeze_batch_norm: keep statistics and affine parameters of batch norm as they were loaded.
            freeze_at: as Detectron2's: layers up to stride 2 ** freeze_at do not learn, 0 = all learn.
        """
        super().__init__()
        import timm  # Not needed by models with Detectron2's ResNet, and slow to import.

        self.model = timm.create_model(name, features_only=True, pretrained=False)
        infos = self.model.feature_info.info
        reductions = [info["reduction"] for info in infos]
        missing = [stride for stride in strides if stride not in reductions]
        if missing:
            raise ValueError(f"timm model {name!r} has no features at strides {missing}, it has {reductions}")
        self.indices = [reductions.index(stride) for stride in strides]
        self.is_channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
        if weights:
            load_timm_weights(self.model, weights)
        if freeze_batch_norm:
            # timm's batch norm may hold an activation, which Detectron2's own conversion would drop.
            self.model = timm.layers.freeze_batch_norm_2d(self.model)
        if freeze_at:
            _freeze(self.model, [i["module"] for i in infos if i["reduction"] <= 2**freeze_at])
        self._out_features = [f"res{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        channels = [infos[index]["num_chs"] for index in self.indices]
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map normalised images: (B, 3, H, W) to features by name, each (B, C, H / stride, W / stride)."""
        features = self.model(images)
        chosen = [features[index] for index in self.indices]
        if self.is_channels_last:
            chosen = [feature.permute(0, 3, 1, 2) for feature in chosen]
        return dict(zip(self._out_features, chosen, strict=True))


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the backbone of MODEL.TIMM."""
    del input_shape  # Pictures have three channels.
    node = cfg.MODEL.TIMM
    return TimmBackbone(
        node.NAME,
        list(node.STRIDES),
        weights=node.WEIGHTS,
        freeze_batch_norm=node.FREEZE_BATCH_NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


def _freeze(model: nn.Module, modules: list[str]) -> None:
    """Stop the learning of the named modules and of all that stands in front of them."""
    # `features_only` models name some modules with an underscore where their info has a dot.
    prefixes = tuple(f"{module.replace('_', '.')}." for module in modules)
    parameters = list(model.named_parameters())
    inside = [i for i, (name, _) in enumerate(parameters) if name.replace("_", ".").startswith(prefixes)]
    for _, parameter in parameters[: max(inside, default=-1) + 1]:
        parameter.requires_grad_(False)
