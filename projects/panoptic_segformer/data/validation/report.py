"""What `panseg validate` says: a text for people, a json for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...writing import whole_file
from .faults import Fault, Severity
from .fixing import Correction
from .validating import Validation

__all__ = ["correction_text", "report_text", "write_report"]


def report_text(name: str, validation: Validation) -> str:
    """Return the faults of a dataset as text, errors first, with their first places and what to do.

    Args:
        name: of the dataset.
        validation: what was found.
    """
    lines = [f"{name}: {_contents(validation)}"]
    for severity in Severity:
        for fault in validation.found:
            if fault.severity is severity:
                lines += ["", *_fault_lines(fault, validation)]
    text = "\n".join([*lines, "", f"{name}: {_summary(validation)}"])
    return text.encode("utf-8", "backslashreplace").decode()  # names of files may be no text


def correction_text(correction: Correction, path: Path) -> str:
    """Return what a correction did and what it left."""
    done = ", ".join(f"{count} {name}" for name, count in correction.done.items()) or "nothing"
    left = ", ".join(f"{count} {name}" for name, count in correction.left.items()) or "nothing"
    return f"{path}: corrected {done}; left {left}"


def write_report(validations: Mapping[str, Validation], path: Path) -> None:
    """Write what was found in datasets, by name, as json."""
    content = {"datasets": [_record(name, validation) for name, validation in validations.items()]}
    with whole_file(path) as partial:
        # Values that were seen may be of any type.
        partial.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def _contents(validation: Validation) -> str:
    content = validation.content
    things = sum(bool(category["isthing"]) for category in content.categories)
    segments = sum(len(annotation["segments_info"]) for annotation in content.annotations)
    return (
        f"{len(content.images):,} pictures, {len(content.annotations):,} annotations, {segments:,} segments, "
        f"{things} thing and {len(content.categories) - things} stuff classes"
    )


def _fault_lines(fault: Fault, validation: Validation) -> list[str]:
    count, examples = validation.tally.counts[fault.name], validation.tally.examples[fault.name]
    times = "once" if count == 1 else f"{count:,} times"
    fixed = " (--fix does it)" if fault.is_fixable else ""
    lines = [f"{fault.severity}: {fault.name}, {times}", f"  {fault.explanation}"]
    lines += [f"    {finding}" for finding in examples]
    if count > len(examples):
        lines.append(f"    ... and {count - len(examples):,} more")
    return [*lines, f"  What to do: {fault.remedy}{fixed}."]


def _summary(validation: Validation) -> str:
    errors, warnings = validation.count(Severity.ERROR), validation.count(Severity.WARNING)
    return (
        f"{errors:,} {'error' if errors == 1 else 'errors'}, {warnings:,} {'warning' if warnings == 1 else 'warnings'}"
    )


def _record(name: str, validation: Validation) -> dict[str, Any]:
    content, paths = validation.content, validation.paths
    return {
        "name": name,
        "json": paths.panoptic_json,
        "png": paths.panoptic_root,
        "images": paths.image_root,
        "pictures": len(content.images),
        "annotations": len(content.annotations),
        "segments": sum(len(annotation["segments_info"]) for annotation in content.annotations),
        "classes": len(content.categories),
        "errors": validation.count(Severity.ERROR),
        "warnings": validation.count(Severity.WARNING),
        "faults": [
            {
                "name": fault.name,
                "severity": fault.severity,
                "count": validation.tally.counts[fault.name],
                "explanation": fault.explanation,
                "remedy": fault.remedy,
                "is_fixable": fault.is_fixable,
                "examples": [finding._asdict() for finding in validation.tally.examples[fault.name]],
            }
            for fault in validation.found
        ],
    }
