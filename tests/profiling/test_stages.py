from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from panoptic_segformer.profiling import stages
from panoptic_segformer.profiling.stages import Profile, Run, Stopwatch, measured_parts, repeat

CPU = torch.device("cpu")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.slow = nn.Identity()
        self.absent = None

    def step(self, seconds):
        time.sleep(seconds)
        return seconds


def test_measured_parts_adds_up_modules_and_methods_and_passes_results_on():
    model, stopwatch = Model(), Stopwatch(CPU)
    with measured_parts(model, {"slow": "module", "step": "method", "absent": "nothing"}, stopwatch):
        assert model.step(0.02) == 0.02
        assert model.step(seconds=0.03) == 0.03
        assert model.slow(torch.ones(1)).item() == 1
    assert 0.05 <= stopwatch.seconds["method"] < 0.5
    assert 0 < stopwatch.seconds["module"] < 0.05
    assert "nothing" not in stopwatch.seconds


def test_measured_parts_leaves_the_model_as_it_was_after_an_error():
    model = Model()
    replaced = model.slow.forward = lambda x: x + 1  # As torch.compile leaves it.
    before = dict(vars(model))
    with (
        pytest.raises(RuntimeError, match="stop"),
        measured_parts(model, dict.fromkeys(["slow", "step"], "a"), Stopwatch(CPU)),
    ):
        raise RuntimeError("stop")
    assert vars(model) == before
    assert vars(model.slow)["forward"] is replaced


def test_measured_parts_measures_what_took_the_place_of_a_part():
    model, stopwatch = Model(), Stopwatch(CPU)
    model.slow.forward = lambda x: x + 1
    with measured_parts(model, {"slow": "module"}, stopwatch):
        assert model.slow(torch.zeros(1)).item() == 1
    assert stopwatch.seconds["module"] > 0


def test_repeat_keeps_only_runs_behind_the_warm_up():
    totals = iter([9.0, 3.0, 1.0, 2.0])
    profile = repeat(lambda: Run({"total": next(totals)}, "result"), runs=2, warm_up=2)
    assert profile == Profile({"total": [1.0, 2.0]}, 9.0, "result")
    assert profile.median("total") == 1.5


def test_spread_is_percentiles_of_many_runs_and_extremes_of_few():
    seconds = [float(number) for number in range(stages.LEAST_RUNS_FOR_PERCENTILES + 1)]
    many, few = Profile({"total": seconds}, 0.0, None), Profile({"total": seconds[:5]}, 0.0, None)
    assert many.spread("total") == (1.0, 9.0)
    assert few.spread("total") == (0.0, 4.0)
    assert many.has_percentiles
    assert not few.has_percentiles
