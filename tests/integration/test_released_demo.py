"""The released model on a real picture, from the command line."""

from __future__ import annotations

import pytest
from PIL import Image

from golden import CONFIG, OVERRIDES, Golden
from panoptic_segformer.cli import main
from tiny import words


def test_demo_draws_a_real_picture_with_a_released_checkpoint(shared_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    checkpoint = Golden(shared_dir / "golden").save_checkpoint(tmp_path / "released.pth")
    picture = min((shared_dir / "data/coco_tiny_free/images").iterdir())
    arguments = ["demo", "--config-file", str(CONFIG), "--weights", f"psf://{checkpoint}", "--input", str(picture)]
    code = main(
        [*arguments, "--output", str(tmp_path / "out"), "--opts", *words(OVERRIDES), "INPUT.MIN_SIZE_TEST", "128"]
    )
    assert code == 0
    overlay = Image.open(tmp_path / "out" / picture.name)
    original = Image.open(picture)
    assert overlay.width >= original.width
    assert overlay.height > original.height  # the legend


@pytest.mark.parametrize("weights", ["psf://missing.pth", "missing.pth"])
def test_missing_weights_are_one_line(shared_dir, tmp_path, capsys, weights):
    picture = min((shared_dir / "data/coco_tiny_free/images").iterdir())
    arguments = ["demo", "--config-file", str(CONFIG), "--weights", weights, "--input", str(picture)]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--opts", "MODEL.DEVICE", "cpu"]) == 2
    assert "missing.pth" in capsys.readouterr().err
