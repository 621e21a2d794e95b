"""Memory that a call takes, positions beyond 2^31, and results that no run changes."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from operator_inputs import (
    DEVICES,
    FORMS,
    PlainInputs,
    cast,
    make_inputs,
    needs_gpu,
    output_and_gradients,
    replace_tensors,
    run,
    tensor_names,
)

from compiled import require_compiled
from panoptic_segformer.ops import mask_statistics, masks_above, paint_masks

PEAK_RESET = Path("/proc/self/clear_refs")
needs_peak = pytest.mark.skipif(not PEAK_RESET.exists(), reason=f"no {PEAK_RESET} to measure memory by")
SLACK = 4 << 20  # What else a process does meanwhile.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Makes glibc take large blocks from the system and give them back at once: memory that it keeps would hide the peak.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def memory_of_process(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


def peak_bytes(action: Callable[[], object]) -> int:
    """Return how far an action raises the memory of this process at most, its results included."""
    action()  # What is set up once, on first use, is not meant.
    gc.collect()
    before = memory_of_process("VmRSS")
    PEAK_RESET.write_text("5")
    action()
    return memory_of_process("VmHWM") - before


def size_in_bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure_memory(form: str, dtype: str, threads: int) -> dict[str, int]:
    """Return peaks of both passes and the sizes that they are held against."""
    inputs = cast(
        make_inputs(form, [(144, 144), (120, 120)], batch=1, heads=8, channels=64, queries=300), DTYPES[dtype]
    )
    inputs = replace_tensors(inputs, torch.Tensor.requires_grad_)
    tensors = [getattr(inputs, name) for name in tensor_names(inputs)]
    torch.set_num_threads(threads)
    output = run(inputs)
    grad_output = torch.ones_like(output)
    return {
        "forward": peak_bytes(lambda: run(inputs)),
        "output": size_in_bytes(output),
        "backward": peak_bytes(lambda: torch.autograd.grad(output, tensors, grad_output, retain_graph=True)),
        "gradients": size_in_bytes(*tensors),
        "float32 value": 4 * inputs.value.numel(),
    }


def measure_mask_memory() -> dict[str, int]:
    """Return peaks of what merging asks of masks, and the size of these at the size of the result."""
    masks, size = torch.rand(100, 50, 76), (400, 608)
    rows, limits = torch.arange(100), torch.ones(100)
    torch.set_num_threads(2)
    return {
        "statistics": peak_bytes(lambda: mask_statistics(masks, size, 0.5)),
        "paint": peak_bytes(lambda: paint_masks(masks, rows, limits, size, 0.5)),
        "above": peak_bytes(lambda: masks_above(masks, size, 0.5)),
        "upsampled bools": size_in_bytes(masks_above(masks, size, 0.5)),
    }


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, int]]:
    """Measure everything in one process of its own."""
    require_compiled()
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **GIVE_BACK, "PYTHONPATH": path}
    result = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@needs_peak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_memory_is_that_of_results_and_at_most_one_float32_copy_of_value_in_backward(measured, form, dtype, threads):
    found = measured[f"{form} {dtype} {threads}"]
    assert found["forward"] <= found["output"] + SLACK  # So few queries do without scratch memory.
    # The lower bound shows that something was measured.
    assert found["gradients"] / 2 < found["backward"] <= found["gradients"] + found["float32 value"] + SLACK


@needs_peak
def test_masks_take_no_memory_at_the_size_of_the_result_unless_they_are_the_result(measured):
    found = measured["masks"]
    assert max(found["statistics"], found["paint"]) <= SLACK < found["upsampled bools"] / 5
    assert found["upsampled bools"] / 2 < found["above"] <= found["upsampled bools"] + SLACK


# Two levels behind each other; the first alone holds 2^31 numbers.
HEADS, CHANNELS = 8, 32
HEIGHT, WIDTH = 2**12, 2**11
LAST = HEIGHT * WIDTH - 1


def far_inputs(device: str) -> PlainInputs:
    """Sample the last pixel of the first level and the first of the second, each in a query of its own.

    Memory that nobody touches is not there: of value only those two pixels take any.
    """
    assert HEIGHT * WIDTH * HEADS * CHANNELS == 2**31
    try:
        value = torch.empty(1, LAST + 5, HEADS, CHANNELS, dtype=torch.bfloat16, device=device)
    except RuntimeError as error:
        pytest.skip(f"no 4 GiB of memory to address: {error}")
    numbers = torch.arange(2 * HEADS * CHANNELS, device=device) % 251
    value[0, LAST : LAST + 2] = numbers.view(2, HEADS, CHANNELS).bfloat16()
    locations = torch.full((1, 2, HEADS, 2, 1, 2), -1.0, device=device)  # Outside.
    locations[0, 0, :, 0] = 1 - torch.tensor([0.5 / WIDTH, 0.5 / HEIGHT])
    locations[0, 1, :, 1] = 0.25
    weights = torch.ones(1, 2, HEADS, 2, 1, device=device)
    return PlainInputs(value, [(HEIGHT, WIDTH), (2, 2)], locations, weights)


@pytest.mark.parametrize("device", DEVICES)
def test_forward_reads_beyond_2_to_the_31(device):
    require_compiled(device)
    inputs = far_inputs(device)
    assert torch.equal(run(inputs), inputs.value[:, LAST : LAST + 2].flatten(2))


def free_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("device", DEVICES)
def test_backward_writes_beyond_2_to_the_31(device):
    require_compiled(device)
    # Beside the gradient of value its sums in float32: of one head per thread, on CUDA of all.
    needed = (8 if device == "cpu" else 20) << 30
    if free_bytes(device) < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free memory, has {free_bytes(device) >> 30}")
    inputs = far_inputs(device)
    value, weights = inputs.value.requires_grad_(), inputs.attention_weights.requires_grad_()
    run(inputs).sum().backward()
    touched = value.grad[0, LAST : LAST + 2]
    assert torch.equal(touched, torch.ones_like(touched))
    assert not value.grad[0, :LAST:1009].any()
    assert not value.grad[0, LAST - WIDTH : LAST].any()
    assert not value.grad[0, LAST + 2 :].any()
    sums = value.detach()[0, LAST : LAST + 2].float().sum(-1)  # Of each query's own level, [2, M].
    assert torch.equal(weights.grad[0, :, :, :, 0], torch.diag_embed(sums.T).transpose(0, 1))


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_deterministic_mode_gives_the_same_numbers_in_every_run(device, form, dtype):
    require_compiled(device)
    # Many points that meet in few pixels: additions in any order would show.
    inputs = make_inputs(form, [(4, 5), (2, 2)], heads=4, channels=32, queries=3000, points=4, device=device)
    inputs = cast(inputs, dtype, torch.float32)
    fast = output_and_gradients(run, inputs)
    torch.use_deterministic_algorithms(True)
    try:
        first, *others = [output_and_gradients(run, inputs) for _ in range(4)]
    finally:
        torch.use_deterministic_algorithms(False)
    for name, tensor in first.items():
        assert all(torch.equal(tensor, other[name]) for other in others), name
        torch.testing.assert_close(fast[name], tensor, rtol=2**-7, atol=1e-3)


if __name__ == "__main__":
    cases = itertools.product(FORMS, DTYPES, (1, 3))
    memory = {" ".join(map(str, case)): measure_memory(*case) for case in cases}
    json.dump({**memory, "masks": measure_mask_memory()}, sys.stdout)
