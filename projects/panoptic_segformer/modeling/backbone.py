"""`features_only` models of timm as Detectron2 backbones.

Detectron2's own ResNet needs none of this. Shape legend: B pictures, C channels, H, W input size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint.backbone import load_timm_weights

__all__ = ["TIMM_WEIGHTS", "TimmBackbone", "build_timm_backbone"]

# The value of MODEL.TIMM.WEIGHTS for the weights that timm has itself.
TIMM_WEIGHTS = "timm"


class TimmBackbone(Backbone):
    """Features of a timm model, named by their stride as Detectron2's ResNet names them (res3 = stride 8).

    Pictures may have any size; a feature of stride s has ceil(H / s) rows and ceil(W / s) columns.
    """

    def __init__(
        self,
        name: str,
        strides: list[int],
        *,
        weights: str = "",
        freeze_batch_norm: bool = True,
        sync_batch_norm: bool = False,
        freeze_at: int = 0,
        output_norm: bool = False,
        options: Mapping[str, object] | None = None,
    ) -> None:
        """Build the backbone.

        Args:
            name: timm's name of the model.
            strides: strides of the features to return, finest first.
            weights: TIMM_WEIGHTS for timm's own, "" for random ones, otherwise see `load_timm_weights`.
            freeze_batch_norm: keep statistics and affine parameters of batch norm as they were loaded.
            sync_batch_norm: take the statistics of batch norm that learns over all ranks.
            freeze_at: layers up to stride 2 ** freeze_at do not learn, 0 = all learn.
            output_norm: layer norm on each feature, as detectors on Swin have it.
            options: further arguments of the timm model, such as `drop_path_rate`.
        Raises: ValueError: if timm has no such model or it does not fit strides, options or weights, or batch norm
            shall be frozen and learn.
        """
        super().__init__()
        if freeze_batch_norm and sync_batch_norm:
            raise ValueError(
                "MODEL.TIMM.SYNC_BATCH_NORM is True, but frozen batch norm has no statistics to share: set "
                "MODEL.TIMM.FREEZE_BATCH_NORM to False, or the former too"
            )
        import timm  # Slow to import, and not needed by models with Detectron2's ResNet.

        from . import timm_model

        model = timm_model.create_timm_model(name, options or {}, pretrained=weights == TIMM_WEIGHTS)
        infos = model.feature_info.info
        reductions = [info["reduction"] for info in infos]
        missing = [stride for stride in strides if stride not in reductions]
        if missing:
            raise ValueError(f"timm model {name!r} has no features at strides {missing}, it has {reductions}")
        self.indices = [reductions.index(stride) for stride in strides]
        self.is_channels_last = timm_model.is_channels_last(model)
        self.side_multiple = timm_model.side_multiple(model, dict(zip(self.indices, strides, strict=True)))
        # Thinner pictures vanish before the coarsest feature in some models.
        self.least_side = max(strides)
        if weights and weights != TIMM_WEIGHTS:
            load_timm_weights(model, weights)
        if freeze_batch_norm:
            # timm's batch norm may hold an activation, which Detectron2's own conversion would drop.
            model = timm.layers.freeze_batch_norm_2d(model)
        if freeze_at:
            timm_model.freeze_up_to(model, [i["module"] for i in infos if i["reduction"] <= 2**freeze_at])
        if sync_batch_norm:
            model = timm.layers.convert_sync_batchnorm(model)  # torch's own would drop activations in norms
        self.name, self.options = name, dict(options or {})
        self.model = model
        self._out_features = [f"res{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        channels = [infos[index]["num_chs"] for index in self.indices]
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))
        norms = {n: nn.LayerNorm(c) for n, c in self._out_feature_channels.items()} if output_norm else {}
        self.output_norms = nn.ModuleDict(norms)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) to features by name, each (B, C, ceil(H / stride), ceil(W / stride))."""
        height, width = images.shape[-2:]
        # Exports are refused where this would matter, see export/exporting.py; formulas of sizes would be in their way.
        is_any_size = torch.compiler.is_exporting()
        features = self.model(images if is_any_size else self._pad(images))
        outputs = {}
        for name, index in zip(self._out_features, self.indices, strict=True):
            feature = features[index] if self.is_channels_last else features[index].permute(0, 2, 3, 1)
            if name in self.output_norms:
                feature = self.output_norms[name](feature)
            feature = feature.permute(0, 3, 1, 2)
            if not is_any_size:
                stride = self._out_feature_strides[name]
                feature = feature[..., : -(-height // stride), : -(-width // stride)]
            outputs[name] = feature
        return outputs

    def layer_numbers(self) -> dict[str, int]:
        """Return the layer of each parameter of `model` by its name here, 0 at the picture, as timm counts layers."""
        from . import timm_model

        layers = timm_model.layer_numbers(self.model, self.name, self.options)
        return {f"model.{name}": layer for name, layer in layers.items()}

    def _pad(self, images: Tensor) -> Tensor:
        """Fill up at the bottom and on the right with the mean colour, where the model needs it."""
        sides = [max(side, self.least_side) for side in images.shape[-2:]]
        bottom, right = (
            side + -side % self.side_multiple - old for side, old in zip(sides, images.shape[-2:], strict=True)
        )
        return F.pad(images, (0, right, 0, bottom)) if bottom or right else images


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the backbone of MODEL.TIMM."""
    del input_shape  # Pictures have three channels.
    node = cfg.MODEL.TIMM
    drop_path = {"drop_path_rate": node.DROP_PATH} if node.DROP_PATH else {}
    return TimmBackbone(
        node.NAME,
        list(node.STRIDES),
        # A checkpoint of the whole model comes after; its backbone's first weights need not be fetched.
        weights="" if cfg.MODEL.WEIGHTS else node.WEIGHTS,
        freeze_batch_norm=node.FREEZE_BATCH_NORM,
        sync_batch_norm=node.SYNC_BATCH_NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        output_norm=node.OUTPUT_NORM,
        options={**drop_path, **node.OPTIONS},
    )
