"""The Swin backbone of MaskFormer's configs, MODEL.SWIN, by timm."""

from __future__ import annotations

from detectron2.config import CfgNode

from panoptic_segformer.modeling.backbone import TimmBackbone

__all__ = ["SWIN", "build_swin"]

# Its name in MODEL.BACKBONE.NAME. It is not registered: the authors' project registers its own by that name.
SWIN = "D2SwinTransformer"
# Any Swin of timm's would do: all that tells them apart is given.
_BASE = "swin_tiny_patch4_window7_224"
_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
# Keys of MODEL.SWIN that timm's Swin has no choice for.
_FIXED = {"QK_SCALE": None, "APE": False, "PATCH_NORM": True, "PATCH_SIZE": 4}


def build_swin(cfg: CfgNode) -> TimmBackbone:
    """Return the backbone of MODEL.SWIN, with layer norm on each output.

    Raises: ValueError: if a key has a value that timm's Swin does not have, or an unknown feature is asked for.
    """
    node = cfg.MODEL.SWIN
    for key, value in _FIXED.items():
        if node[key] != value:
            raise ValueError(f"MODEL.SWIN.{key} is {node[key]!r}, but timm's Swin has {value!r} alone: set it to that")
    unknown = [name for name in node.OUT_FEATURES if name not in _STRIDES]
    if unknown:
        raise ValueError(f"MODEL.SWIN.OUT_FEATURES names {unknown}: choose from {', '.join(_STRIDES)}")
    return TimmBackbone(
        _BASE,
        [_STRIDES[name] for name in node.OUT_FEATURES],
        # A checkpoint of the whole model comes after; the backbone's first weights need not be fetched.
        weights="" if cfg.MODEL.WEIGHTS else cfg.MODEL.TIMM.WEIGHTS,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        output_norm=True,
        options={
            "img_size": node.PRETRAIN_IMG_SIZE,
            "window_size": node.WINDOW_SIZE,
            "embed_dim": node.EMBED_DIM,
            "depths": tuple(node.DEPTHS),
            "num_heads": tuple(node.NUM_HEADS),
            "mlp_ratio": node.MLP_RATIO,
            "qkv_bias": node.QKV_BIAS,
            "proj_drop_rate": node.DROP_RATE,
            "attn_drop_rate": node.ATTN_DROP_RATE,
            "drop_path_rate": node.DROP_PATH_RATE,
        },
    )
