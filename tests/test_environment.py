from __future__ import annotations

import importlib
import platform
import re
from pathlib import Path

import pytest
import torch

from panoptic_segformer import environment, ops
from panoptic_segformer.environment import collect_facts


def by_name(facts):
    return {fact.name: fact for fact in facts}


def test_collect_facts_names_versions_of_this_environment():
    facts = by_name(collect_facts())
    assert facts["python"].value.startswith(platform.python_version())
    assert facts["torch"].value == torch.__version__
    for name in ("torchvision", "detectron2", "panopticapi", "timm", "numpy"):
        assert re.match(r"\d+\.\d+", facts[name].value), facts[name]
        assert not facts[name].remedy


def test_collect_facts_operator_says_which_and_why_and_the_remedy(monkeypatch):
    backend = ops.Backend("reference", "the extension was not built", "pip install --no-build-isolation -e .")
    monkeypatch.setattr(ops, "backend", lambda device_type: backend)
    fact = by_name(collect_facts())["operator"]
    assert fact.value == "reference: the extension was not built"
    assert fact.remedy == "pip install --no-build-isolation -e ."


@pytest.mark.parametrize(("has_gpu", "device_type"), [(True, "cuda"), (False, "cpu")])
def test_collect_facts_operator_is_that_of_the_device_models_run_on(monkeypatch, has_gpu, device_type):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(ops, "backend", lambda asked: ops.Backend("compiled", f"serves {asked}"))
    assert by_name(collect_facts())["operator"].value == f"compiled: serves {device_type}"


def test_remedies_ask_for_the_versions_of_the_requirements():
    folder = Path(__file__).resolve().parents[1] / "requirements"
    lines = [line for name in ("torch", "runtime") for line in (folder / f"{name}.txt").read_text().splitlines()]
    names = {"PIL": "pillow"}
    for library in environment.LIBRARIES.keys() - {"detectron2", "panopticapi"}:  # These have lines of their own.
        (wanted,) = [line for line in lines if re.match(r"[\w-]*", line)[0] == names.get(library, library)]
        assert wanted in environment.LIBRARIES[library].replace("'", "").split(), library


@pytest.mark.parametrize("missing", sorted(environment.LIBRARIES))
def test_collect_facts_missing_library_has_its_line_and_no_crash(monkeypatch, missing):
    real_import = importlib.import_module

    def fake_import(name):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name)

    monkeypatch.setattr(importlib, "import_module", fake_import)
    fact = by_name(collect_facts())[missing]
    assert fact.value == "missing"
    assert fact.remedy.startswith("pip install")


def test_collect_facts_broken_library_is_told_from_a_missing_one(monkeypatch):
    real_import = importlib.import_module

    def fake_import(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nmore lines")
        if name == "timm":
            raise ModuleNotFoundError("No module named 'safetensors'", name="safetensors")
        return real_import(name)

    monkeypatch.setattr(importlib, "import_module", fake_import)
    facts = by_name(collect_facts())
    assert facts["torchvision"].value == "does not import: operator torchvision::nms does not exist"
    assert facts["timm"].value == "does not import: No module named 'safetensors'"
    assert facts["torchvision"].remedy
    assert facts["timm"].remedy


def test_collect_facts_operator_that_fails_is_reported(monkeypatch):
    def broken(device_type):
        raise OSError("libtorch_cuda.so: cannot open shared object file")

    monkeypatch.setattr(ops, "backend", broken)
    assert "libtorch_cuda.so" in by_name(collect_facts())["operator"].value


def test_collect_facts_lists_gpus(monkeypatch):
    properties = type("Properties", (), {"name": "H200", "major": 9, "minor": 0, "total_memory": 141 * 2**30})
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    facts = by_name(collect_facts())
    assert facts["CUDA of torch"].value == "13.2"
    assert facts["GPU 0"].value == "H200, sm_90, 141 GiB"


@pytest.mark.parametrize(("cuda", "name"), [(None, "CUDA of torch"), ("13.2", "GPU")])
def test_collect_facts_without_gpu_says_cpu(monkeypatch, cuda, name):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = by_name(collect_facts())
    assert "CPU" in facts[name].value
    assert "GPU 0" not in facts
