"""The folder of a training: whether it can be written, and the seed that it was started with."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..writing import whole_file
from .run_record import read_runs

__all__ = ["check_writable", "fix_seed"]


def check_writable(folder: str | Path) -> None:
    """Make the folder if it is not there, and see that files can be written in it.

    Raises: OSError: if not (says why, and what to do).
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / f"probe_of_rank_{comm.get_rank()}") as partial:
            partial.write_bytes(bytes(4096))
        (folder / f"probe_of_rank_{comm.get_rank()}").unlink()
    except OSError as error:
        raise OSError(
            f"OUTPUT_DIR {folder} can't be written ({error}): make space, change its permissions, or give another one"
        ) from error


def fix_seed(cfg: CfgNode, resume: bool) -> None:
    """Give a config whose SEED is below 0 one that all processes draw together, in place.

    Args:
        cfg: the config, not frozen.
        resume: whether a training in OUTPUT_DIR is continued, whose seed is taken then.
    """
    if cfg.SEED >= 0:
        return
    drawn, runs = comm.shared_random_seed(), read_runs(cfg.OUTPUT_DIR) if resume else []
    cfg.SEED = runs[-1]["seed"] if runs else drawn
