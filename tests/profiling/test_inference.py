from __future__ import annotations

import numpy as np
import pytest
import torch

from panoptic_segformer.profiling.inference import STAGES, PictureBatch, time_inference

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)


def test_picture_batch_is_resized_and_results_have_the_pictures_size():
    first, second = PictureBatch(PICTURE, (64, 96), 2).examples()
    assert first["image"].shape == (3, 64, 96)
    assert first["image"].dtype == torch.uint8
    assert (first["height"], first["width"]) == (48, 80)
    assert torch.equal(first["image"], second["image"])


def test_time_inference_measures_every_stage_and_changes_no_result(tiny_model):
    batch = PictureBatch(PICTURE, (64, 96), 2)
    run = time_inference(tiny_model, batch)
    assert list(run.seconds) == [*STAGES.values(), "rest", "total"]
    assert all(seconds > 0 for seconds in run.seconds.values())
    parts = [seconds for name, seconds in run.seconds.items() if name != "total"]
    assert sum(parts) == pytest.approx(run.seconds["total"])
    with torch.no_grad():
        expected = tiny_model(batch.examples())
    for result, truth in zip(run.results, expected, strict=True):
        assert result["panoptic_seg"][0].shape == (48, 80)
        assert torch.equal(result["panoptic_seg"][0], truth["panoptic_seg"][0])


def test_time_inference_of_a_model_without_location_decoder_measures_no_such_stage(tiny_config):
    from detectron2.modeling import build_model

    model = build_model(tiny_config("MODEL.PANOPTIC_SEGFORMER.SEGMENTS", "stuff")).eval()
    seconds = time_inference(model, PictureBatch(PICTURE, (64, 96))).seconds
    assert seconds["location decoder"] == 0
    assert seconds["mask decoders"] > 0


def test_time_inference_with_amp_runs_under_autocast(tiny_model):
    seen = []
    tiny_model.neck.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    batch = PictureBatch(PICTURE, (64, 96))
    time_inference(tiny_model, batch)
    time_inference(tiny_model, batch, amp=True)
    assert seen == [False, True]
