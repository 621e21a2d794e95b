"""Results whose every figure is known, in place of a model's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference.result import PanopticResult

CATEGORIES = Categories((0,), (1,), ("ball",), ("sky",), ((220, 40, 40),), ((40, 90, 230),))


def halves(image: np.ndarray | None = None, size: tuple[int, int] = (6, 8), thing_name: str = "ball") -> PanopticResult:
    """Sky above (id 2), a thing in the lower left quarter (id 5), void beside it; on grey if no image is given."""
    if image is None:
        image = np.full((*size, 3), 100, np.uint8)
    height, width = image.shape[:2]
    ids = np.zeros((height, width), np.int32)
    ids[: height // 2] = 2
    ids[height // 2 :, : width // 2] = 5
    records = [
        {"id": 2, "category_id": 1, "isthing": False, "score": 0.9, "area": int((ids == 2).sum())},
        {"id": 5, "category_id": 0, "isthing": True, "score": 0.4, "area": int((ids == 5).sum())},
    ]
    return PanopticResult.from_output(
        image, {"panoptic_seg": (ids, records)}, replace(CATEGORIES, thing_names=(thing_name,))
    )
