"""Configs by full key, to be compared."""

from __future__ import annotations

from detectron2.config import CfgNode


def flat_config(node: CfgNode, prefix: str = "") -> dict[str, str]:
    """Values by full key, as text: lists and tuples say the same."""
    pairs = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            pairs |= flat_config(value, f"{prefix}{key}.")
        else:
            pairs[prefix + key] = str([*value] if isinstance(value, tuple) else value)
    return pairs
