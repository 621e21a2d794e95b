"""The folder of a training is checked before anything is computed, and keeps the seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_segformer.data.datasets import register_datasets
from panoptic_segformer.training.output_folder import check_writable, fix_seed
from panoptic_segformer.training.run_record import write_run_record


def test_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "new/deep")
    assert not list((tmp_path / "new/deep").iterdir())


@pytest.mark.parametrize("below", ["", "/below"])
def test_folder_that_cannot_be_written_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"OUTPUT_DIR .*file.* can't be written .*give another one"):
        check_writable(f"{tmp_path / 'file'}{below}")


def test_seed_is_drawn_kept_and_found_again(tiny_config, tmp_path: Path) -> None:
    given, first, second = tiny_config("SEED", "5"), tiny_config(), tiny_config()
    for cfg in (given, first, second):
        fix_seed(cfg, resume=False)
    assert given.SEED == 5
    assert first.SEED >= 0
    assert first.SEED != second.SEED
    (tmp_path / "output").mkdir()
    register_datasets(first)
    write_run_record(first, first.OUTPUT_DIR, resume=False)
    continued = tiny_config()
    fix_seed(continued, resume=True)
    assert continued.SEED == first.SEED
