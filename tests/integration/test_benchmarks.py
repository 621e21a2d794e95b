"""The benchmarks on inputs of a few pixels: all their parts run, and what they time computes the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compiled import require_compiled
from tiny import tiny_overrides

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RUNS = 2
# By dtype, of outputs around 1. Offsets of several cells in bfloat16 move a sample by some hundredths of a pixel.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.25}

# In the place of the peer: only its signature counts here.
PEER = """
from panoptic_segformer.ops import ms_deform_attn_reference

def ms_deform_attn(value, shapes, starts, locations, weights):
    assert starts.tolist() == [0, *shapes.prod(-1).cumsum(0).tolist()][:-1]
    return ms_deform_attn_reference(value, shapes, locations, weights)
"""


def run_benchmark(folder: Path, *words: str) -> SimpleNamespace:
    """Run it in a process of its own, with a peer installed."""
    (folder / "torch_ms_deform_attn.py").write_text(PEER)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "benchmarks/ms_deform_attn.py", *words, "--json", str(folder / "figures.json")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return SimpleNamespace(printed=done.stdout, written=json.loads((folder / "figures.json").read_text()))


@pytest.fixture(
    scope="module",
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
        ),
    ],
)
def benchmark(request, tmp_path_factory) -> SimpleNamespace:
    """What one run printed and wrote."""
    require_compiled(request.param)
    words = ["--device", request.param, "--shrink", "20", "--dtype", *TOLERANCES, "--runs", str(RUNS)]
    return run_benchmark(tmp_path_factory.mktemp("benchmark"), *words)


def test_benchmark_measures_every_case(benchmark):
    assert list(benchmark.written["cases"]) == ["encoder", "four-levels", "uniform", "decoder"]
    for name, case in benchmark.written["cases"].items():
        assert f"### {name}\n\n{case['title']}" in benchmark.printed
        assert {"compiled", "compiled, fused", "PyTorch definition", "torch-ms-deform-attn"} <= {
            record["name"] for record in case["times"]
        }
        assert {record["pass"] for record in case["times"]} == {"forward", "forward+backward"}
        for record in case["times"]:
            assert all(len(seconds) == RUNS and min(seconds) > 0 for seconds in record["seconds"].values())


def test_benchmarked_implementations_agree(benchmark):
    for name, case in benchmark.written["cases"].items():
        for record in case["errors"]:
            if record["name"].startswith("compiled") or record["dtype"] == "float32":
                assert record["max"] < TOLERANCES[record["dtype"]], (name, record)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process is Linux's to tell")
def test_benchmark_measures_memory(tmp_path):
    require_compiled("cpu")
    words = ["--case", "decoder", "--dtype", "float32", "--threads", "1", "--runs", "1"]
    memory = run_benchmark(tmp_path, *words).written["memory"]["decoder"]
    backward = {record["name"]: record for record in memory if record["pass"] == "forward+backward"}
    assert len(memory) == 2 * len(backward)
    value = 19950 * 256 * 4
    for record in backward.values():
        assert record["results"] > value
        assert record["peak"] > 0.5 * record["results"]  # Zeros that nobody wrote to are not resident.
    # The definition keeps a copy of value for backward.
    assert backward["PyTorch definition"]["peak"] > backward["PyTorch definition"]["results"] + 0.5 * value


def test_benchmark_says_what_it_ran_and_what_it_left_out(benchmark):
    assert "- command: python benchmarks/ms_deform_attn.py --device" in benchmark.printed
    left_out = {name for case in benchmark.written["cases"].values() for name in case["missing"]}
    assert all(f"Left out: {name} " in benchmark.printed for name in left_out)
    assert "torch-ms-deform-attn" not in left_out
    assert all(rates["copy"] > 0 and rates["matmul"] > 0 for rates in benchmark.written["rates"].values())
    if "--device cpu" in benchmark.written["machine"]["command"]:
        unknown = [line for line in benchmark.printed.splitlines() if "not measured" in line]
        assert all("memory" in line.lower() for line in unknown)  # Not every system tells it.


def test_model_benchmark_compares_all_contenders(scenes_root, tmp_path):
    config = "configs/synthetic/panoptic_segformer_lite0.yaml"
    words = ["--config-file", config, "--size", "64", "96", "--threads", "1", "--runs", "1"]
    done = subprocess.run(
        [sys.executable, "benchmarks/model.py", *words, "--opts", *tiny_overrides(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(scenes_root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for title in ("inference, 1 CPU threads", "results", "training step, 1 CPU threads"):
        assert f"### {title}\n\n| " in done.stdout
    shares = re.findall(r"([0-9.]+)% \|", done.stdout.partition("### results")[2])
    assert [float(share) > 99.9 for share in shares[:2]] == [True, True]
    found = re.search(r"\| ours +\| +(\d+) and (\d+) \|", done.stdout)
    assert int(found[1]) == int(found[2]) > 1  # two empty maps would be equal too
    peaks = re.findall(r"^\| (?:inference|training step) +\| +([0-9,]+|-) ", done.stdout, re.MULTILINE)
    assert len(peaks) == 2
    assert all(peak != "-" for peak in peaks) or not os.access("/proc/self/clear_refs", os.W_OK)


def test_mask_losses_at_points_take_less_memory():
    words = ["--things", "8", "--points", "32", "--size", "512", "768"]
    command = [sys.executable, "benchmarks/mask_losses.py", *words]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    peaks = {way.strip(): float(peak) for way, peak in re.findall(r"\| 8 +\|([^|]+)\| +([\d.]+) +\|", printed)}
    assert list(peaks) == ["whole masks", "whole masks, ACTIVATION_CHECKPOINTING", "32 points"]
    assert peaks["32 points"] < 0.5 * peaks["whole masks"]
