"""Every command of docs/scaling.md runs as it stands there, on a CPU, shortened and with two processes for eight."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
from detectron2.engine import DefaultTrainer

from documents import ROOT, blocks, checkout_environment, commands, run_in_checkout
from panoptic_segformer import load_config

DOCUMENT = ROOT / "docs/scaling.md"
SHORT = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "INPUT.MIN_SIZE_TRAIN", "(64,)", "DATASETS.TEST", "()"]
SHORT += ["MODEL.DEVICE", "cpu"]

slow = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_document_has_the_ways_to_start():
    starts = [line.split()[0] for line in commands(DOCUMENT)]
    assert starts == ["python", "python", "torchrun", "torchrun", "panseg"]


def test_table_of_learning_rates_is_what_detectron2_makes_of_the_config():
    cfg = load_config(ROOT / "configs/coco/panoptic_segformer_r50_1x.yaml", ["MODEL.DEVICE", "cpu"])
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([\d.]+) \| (\d+) \| (\d+) \| (\d+) \|$", DOCUMENT.read_text(), re.M)
    assert [int(row[0]) for row in rows] == [1, 2, 8, 16]
    for row in rows:
        processes, *expected = map(float, row)
        scaled = DefaultTrainer.auto_scale_workers(cfg, int(processes))
        solver = scaled.SOLVER
        found = [solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER, *solver.STEPS, scaled.TEST.EVAL_PERIOD]
        assert found == pytest.approx(expected)


@slow
@pytest.mark.parametrize("line", [line for line in commands(DOCUMENT) if "--nnodes" not in line])
def test_command_runs_as_pasted(line, checkout):
    words = shlex.split(line.replace("-gpus 8", "-gpus 2").replace("per-node 8", "per-node 2"))
    if words[0] == "panseg":
        words += ["--runs", "1", "--warm-up", "1", "--device", "cpu", "--batch", "1"]
        assert "peak memory beyond weights and optimizer state" in run_in_checkout(words, checkout).stdout
    else:
        run_in_checkout([*words, *SHORT], checkout)


@slow
def test_machines_find_each_other(checkout):
    """Two machines are two torchruns here, each with one process."""
    (line,) = [line for line in commands(DOCUMENT) if "--nnodes" in line]
    line = line.replace("per-node 8", "per-node 1").replace("first-machine:29500", f"127.0.0.1:{free_port()}")
    environment = checkout_environment(checkout)
    words = [*shlex.split(line), *SHORT, "OUTPUT_DIR", "output/machines"]
    machines = [subprocess.Popen(words, cwd=checkout, env=environment) for _ in range(2)]
    assert [machine.wait(timeout=500) for machine in machines] == [0, 0]
    log = (checkout / "output/machines/log.txt").read_text()
    assert "World size: 2" in log
    assert (checkout / "output/machines/model_final.pth").is_file()


@slow
def test_slurm_script_starts_torchrun(checkout, tmp_path):
    """With stand-ins for Slurm's commands, which run what they are given here."""
    (script,) = blocks(DOCUMENT, "sh")
    (tmp_path / "train.sh").write_text(script)
    write_command(tmp_path / "srun", 'exec "$@"')
    write_command(tmp_path / "scontrol", "echo 127.0.0.1")
    environment = checkout_environment(checkout)
    environment |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    environment |= {"SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:{environment['PATH']}"}
    words = ["bash", str(tmp_path / "train.sh"), *SHORT, "OUTPUT_DIR", "output/slurm"]
    done = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "World size: 2" in (checkout / "output/slurm/log.txt").read_text()


def write_command(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
