"""Checkpoints of every form load safely, and what does not fit is counted."""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from panoptic_segformer.comparison.weights import load_weights


class Model(nn.Module):
    """Two tensors that learn, a table that is computed, and a buffer that is no state."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 3)
        self.register_buffer("relative_position_index", torch.zeros(4))
        self.register_buffer("scale", torch.zeros(1), persistent=False)


def state(**more):
    return {"head.weight": torch.ones(3, 2), "head.bias": torch.ones(3), **more}


def as_arrays(tensors):
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "content",
    [
        {"model": state()},
        {"state_dict": OrderedDict(state()), "meta": {"epoch": 3}},
        state(),
        {"model": {f"module.{name}": tensor for name, tensor in state().items()}},
        {"model": state(scale=torch.ones(1), **{"norm.num_batches_tracked": torch.ones(())}), "iteration": 9},
    ],
    ids=["model", "state_dict", "bare", "distributed", "extras"],
)
def test_forms_of_pth_fit_completely(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    model = Model()
    fit = load_weights(model, tmp_path / "weights.pth")
    assert fit.complete
    assert fit.describe() == "2 of the model's 2 tensors filled"
    assert model.head.weight.eq(1).all()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_model_zoo_pickles_fit_completely(tmp_path, protocol):
    content = {"model": as_arrays(state()), "__author__": "zoo", "size": np.float64(3)}
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(content, protocol))
    model = Model()
    assert load_weights(model, tmp_path / "weights.pkl").complete
    assert model.head.bias.eq(1).all()


def test_misfit_is_counted_by_kind_and_names_the_first_keys(tmp_path):
    content = {"head.weight": torch.ones(5, 2), **{f"other.{i}": torch.ones(1) for i in range(7)}}
    torch.save({"model": content}, tmp_path / "weights.pth")
    fit = load_weights(Model(), tmp_path / "weights.pth")
    assert not fit.complete
    assert (fit.total, fit.missing, fit.reshaped) == (2, ["head.bias"], ["head.weight"])
    assert len(fit.unexpected) == 7
    assert fit.describe() == (
        "0 of the model's 2 tensors filled; 1 missing: head.bias; "
        "7 unexpected: other.0, other.1, other.2, other.3, other.4 and 2 more; 1 reshaped: head.weight"
    )


def test_only_whole_names_count_as_computed(tmp_path):
    model = nn.ModuleDict({"attn_mask_head": nn.Linear(1, 1)})
    model.register_buffer("attn_mask", torch.zeros(1))
    torch.save({"model": {"blocks.0.attn_mask": torch.ones(1)}}, tmp_path / "weights.pth")
    fit = load_weights(model, tmp_path / "weights.pth")
    assert (fit.total, fit.missing) == (2, ["attn_mask_head.weight", "attn_mask_head.bias"])
    assert not fit.unexpected


@pytest.mark.parametrize("trust", [False, True])
def test_safetensors_fit_completely(tmp_path, trust):
    save_file(state(), tmp_path / "weights.safetensors")
    assert load_weights(Model(), tmp_path / "weights.safetensors", trust).complete


class Marker:
    """Leaves a trace if a pickle of it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_files_that_would_run_code_are_refused_unless_trusted(tmp_path, suffix):
    path, trace = tmp_path / f"weights{suffix}", tmp_path / "trace"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": as_arrays(state()), "extra": Marker(trace)}))
    else:
        torch.save({"model": state(), "args": argparse.Namespace(lr=1), "extra": Marker(trace)}, path)
    with pytest.raises(ValueError, match="'trust: true'"):
        load_weights(Model(), path)
    assert not trace.exists()
    assert load_weights(Model(), path, trust=True).complete
    assert trace.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("trust", [False, True])
def test_truncated_files_are_refused(tmp_path, suffix, trust):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"weights{suffix}"
    whole.write_bytes(pickle.dumps({"model": as_arrays(state())})) if suffix == ".pkl" else torch.save(state(), whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match="can't be read"):
        load_weights(Model(), path, trust)


def test_files_without_tensors_by_name_are_refused(tmp_path):
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="holds a list, expected a dict"):
        load_weights(Model(), tmp_path / "weights.pkl")
    torch.save([1, 2], tmp_path / "weights.pth")
    for trust in (False, True):
        with pytest.raises(ValueError, match="holds a list, expected a dict"):
            load_weights(Model(), tmp_path / "weights.pth", trust)
    torch.save({"model": {}}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        load_weights(Model(), tmp_path / "weights.pth")
