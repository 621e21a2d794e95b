"""The report by way of `panseg benchmark`."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from panoptic_segformer.cli import main
from panoptic_segformer.profiling import memory, report
from panoptic_segformer.profiling.memory import MemoryUnknownError
from tiny import tiny_overrides


@pytest.fixture
def benchmark_words(tiny_config, config_dir, tmp_path, monkeypatch):
    """A benchmark of a second; memory is left out, its process takes longer than all the rest."""

    def no_memory(*arguments):
        raise MemoryUnknownError("switched off in this test")

    monkeypatch.setattr(report, "in_fresh_process", no_memory)
    config = str(config_dir / "synthetic/panoptic_segformer_lite0.yaml")
    words = ["benchmark", "--config-file", config, "--size", "64", "96", "--runs", "2", "--warm-up", "1"]
    return [*words, "--opts", *tiny_overrides(tmp_path)]


def table_rows(printed):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]


def test_benchmark_prints_stages_for_each_batch_and_writes_every_number(benchmark_words, tmp_path, capsys):
    path = tmp_path / "numbers.json"
    assert main([*benchmark_words, "--device", "cpu", "--batch", "1", "2", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    for fact in ("- weights: random", "resized to 64x96", "- precision: float32", "- runs: 2 after 1", "- operator: "):
        assert fact in printed
    assert "peak memory beyond weights: not measured, switched off in this test" in printed
    names = [row[0] for row in table_rows(printed)]
    for stage in ("preprocess", "backbone", "neck", "encoder", "location decoder", "mask decoders", "merging", "total"):
        assert names.count(stage) == 2
    assert [row[0] for row in table_rows(printed.partition("### all batches")[2])[2:]] == ["1", "2"]
    written = json.loads(path.read_text())
    assert [batch["batch"] for batch in written["batches"]] == [1, 2]
    assert all(len(seconds) == 2 for batch in written["batches"] for seconds in batch["seconds"].values())
    assert written["setting"]["size"] == [64, 96]


def test_benchmark_of_a_picture_with_loaded_weights_and_amp(benchmark_words, tiny_config, tmp_path, capsys):
    torch.save({"model": build_model(tiny_config()).state_dict()}, tmp_path / "weights.pth")
    Image.new("RGB", (50, 40)).save(tmp_path / "picture.png")
    files = ["--weights", str(tmp_path / "weights.pth"), "--input", str(tmp_path / "picture.png")]
    assert main([*benchmark_words, *files, "--amp", "--channels-last"]) == 0
    printed = capsys.readouterr().out
    assert f"- weights: {tmp_path / 'weights.pth'}" in printed
    assert "picture.png of 40x50 (height x width), resized to 64x96; results of 40x50" in printed
    assert "- precision: torch.autocast, bfloat16" in printed
    assert "- channels last: weights and input of the backbone" in printed


def test_benchmark_train_prints_parts_of_a_step_and_the_truth(benchmark_words, capsys):
    assert main([*benchmark_words, "--train"]) == 0
    printed = capsys.readouterr().out
    assert "truth: 8 things and 4 classes of stuff" in printed
    assert {"backbone", "mask decoders and losses", "backward", "optimizer"} <= {row[0] for row in table_rows(printed)}
    (state,) = re.findall(r"weights and optimizer state \(([0-9.]+) MB\)", printed)
    assert float(state) > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process is Linux's to tell")
@pytest.mark.parametrize("more", [[], ["--train"]])
def test_benchmark_measures_peak_memory(benchmark_words, tmp_path, capsys, monkeypatch, more):
    monkeypatch.setattr(report, "in_fresh_process", memory.in_fresh_process)
    path = tmp_path / "numbers.json"
    assert main([*benchmark_words, "--size", "256", "320", "--json", str(path), *more]) == 0
    (batch,) = json.loads(path.read_text())["batches"]
    assert 1e6 < batch["peak_bytes"] < 1e9
    assert f"{batch['peak_bytes'] / 1e6:,.1f} MB" in capsys.readouterr().out


@pytest.mark.slow
def test_benchmark_compile_measures_the_compiled_parts(benchmark_words, capsys):
    assert main([*benchmark_words, "--compile"]) == 0
    printed = capsys.readouterr().out
    assert "- torch.compile: backbone, encoder, location_decoder, thing_mask_decoder, stuff_mask_decoder" in printed
    assert "the first run, with compilation, took" in printed


def test_benchmark_compile_without_a_compiler_gives_one_plain_message(benchmark_words, capsys, monkeypatch):
    def compile_(function):
        def refuse(*arguments):
            raise RuntimeError("No working C++ compiler found\nand much more")

        return refuse

    monkeypatch.setattr(torch, "compile", compile_)
    assert main([*benchmark_words, "--compile"]) == 2
    assert "(No working C++ compiler found): install a C++ compiler (CXX), or leave" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--input", "absent.png"], "absent.png does not exist"),
        (["--input", "broken.png"], "broken.png cannot be read"),
        (["--weights", "absent.pth"], "absent.pth"),
        (["--train", "--input", "broken.png"], "leave out --input or --train"),
        (["--json", "absent/numbers.json"], "absent/numbers.json can't be written"),
    ],
)
def test_benchmark_wrong_option_gives_one_plain_message(benchmark_words, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_text("not a picture")
    assert main([*benchmark_words, *more]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("panseg benchmark: ")
    assert message in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_benchmark_gpu_that_is_not_there_gives_one_plain_message(benchmark_words, capsys):
    assert main([*benchmark_words, "--device", "cuda"]) == 2
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--batch", "--runs", "--warm-up", "--threads"])
@pytest.mark.parametrize("number", ["0", "-1", "some"])
def test_benchmark_number_below_one_exits_with_2(option, number, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "--config-file", "c.yaml", option, number])
    assert stopped.value.code == 2
    assert option in capsys.readouterr().err
