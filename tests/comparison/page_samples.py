"""Classes and segments of the page's tests."""

from __future__ import annotations

from panoptic_segformer.comparison.results import Category

CAR, SKY = Category(7, "car", True, (220, 30, 30)), Category(180, "sky", False, (60, 120, 220))


def segments(*classes):
    """Segments 1, 2, ... of these categories."""
    return [
        {"id": id_, "category_id": one.id, "isthing": one.isthing, "score": None, "area": 0}
        for id_, one in enumerate(classes, start=1)
    ]
