"""Panoptic SegFormer for Detectron2.

Asking for any public name registers the meta-architecture `PanopticSegFormer`, the backbone builder
`build_timm_backbone` and the `psf://` form of MODEL.WEIGHTS with Detectron2. The import alone does not load
Detectron2: `panoptic_segformer.ops` and `panseg info` work without it.
"""

from __future__ import annotations

__all__ = [
    "PanopticPredictor",
    "PanopticResult",
    "PanopticSegFormer",
    "add_panoptic_segformer_config",
    "load_config",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import registration

    return getattr(registration, name)
