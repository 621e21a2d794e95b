"""Evaluation on datasets in COCO-panoptic form: panoptic quality, precision of things, semantic quality."""

from .building import build_evaluators

__all__ = ["build_evaluators"]
