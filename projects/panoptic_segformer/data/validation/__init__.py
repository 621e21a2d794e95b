"""Checks of a dataset in COCO-panoptic form: faults, statistics, and a json with what can be corrected."""

from .faults import Fault, Finding, Severity
from .fixing import Correction, correct
from .validating import ALL_FAULTS, Validation, validate

__all__ = ["ALL_FAULTS", "Correction", "Fault", "Finding", "Severity", "Validation", "correct", "validate"]
