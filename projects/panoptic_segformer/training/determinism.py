"""Deterministic mode: the same training twice ends in the same bits."""

from __future__ import annotations

import os

import torch
from detectron2.config import CfgNode

__all__ = ["set_determinism"]

# cuBLAS sums in one order only with a workspace of fixed size (its documentation, "Results reproducibility").
CUBLAS_WORKSPACE = ":4096:8"


def set_determinism(cfg: CfgNode) -> None:
    """With SOLVER.DETERMINISTIC, let torch use deterministic algorithms alone; call it before anything runs on a GPU.

    An operator without such an algorithm then stops with a RuntimeError that names it. Ours have one on every device
    (`ops.ms_deform_attn`), except for the PyTorch definition on CUDA, which says so. A seed has to be given, too.
    """
    if not cfg.SOLVER.DETERMINISTIC:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
