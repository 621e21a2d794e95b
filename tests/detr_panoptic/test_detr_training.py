"""A DETR trained by the project's trainer."""

from __future__ import annotations

import pytest

from panoptic_segformer.training.trainer import PanopticTrainer


def test_trainer_trains_and_evaluates(detr_config):
    cfg = detr_config("SOLVER.MAX_ITER", "2")
    trainer = PanopticTrainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert {"panoptic_seg", "sem_seg", "segm", "bbox"} <= set(results)
    logged = trainer.storage.latest()
    assert {"loss_ce", "loss_mask", "class_error", "cardinality_error"} <= set(logged)
    losses = sum(value for name, (value, _) in logged.items() if name.startswith("loss_"))
    assert logged["total_loss"][0] == pytest.approx(losses, rel=1e-5)
