"""The checkpoints that the authors of Panoptic SegFormer released.

`MODEL.WEIGHTS: psf://NAME` fetches and converts them (see addresses.py). Their code and weights:
https://github.com/zhiqi-li/Panoptic-SegFormer, Apache 2.0.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MODEL_ZOO", "ReleasedModel"]

ADDRESS = "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0/panoptic_segformer_{}.pth"


@dataclass(frozen=True)
class ReleasedModel:
    """One released checkpoint.

    Attributes:
        config: the config it belongs to, a path under configs/.
        address: where the authors published it.
        published_pq: panoptic quality on COCO val2017, percent, as the README of the released code prints it.
        sha256: hash of the file; None where nobody published it.
    """

    config: str
    address: str
    published_pq: float
    sha256: str | None = None


# The paper's table has 55.4 for PVTv2-B5, all other numbers are the same there (CVPR 2022, table 1).
MODEL_ZOO = {
    "r50_1x": ReleasedModel("coco/panoptic_segformer_r50_1x.yaml", ADDRESS.format("r50_1x"), 48.0),
    "r50_2x": ReleasedModel("coco/panoptic_segformer_r50_2x.yaml", ADDRESS.format("r50_2x"), 49.6),
    "r101_2x": ReleasedModel("coco/panoptic_segformer_r101_2x.yaml", ADDRESS.format("r101_2x"), 50.6),
    "pvtv2_b5_2x": ReleasedModel("coco/panoptic_segformer_pvtv2_b5_2x.yaml", ADDRESS.format("pvtv2b5_2x"), 55.6),
    "swin_l_2x": ReleasedModel("coco/panoptic_segformer_swin_l_2x.yaml", ADDRESS.format("swinl_2x"), 55.8),
}
