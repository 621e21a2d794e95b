"""Where the compiled operator is missing, the reference runs and says why, once and in plain words."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from operator_inputs import make_inputs

from compiled import require_compiled
from panoptic_segformer import ops
from panoptic_segformer.ops import Backend, backend, extension, ms_deform_attn, ms_deform_attn_reference


@pytest.fixture
def failing_import(monkeypatch, tmp_path):
    """Return a function that makes the import of the extension fail with an error."""
    monkeypatch.setattr(extension, "BUILD_FAILURE_FILE", tmp_path / "_build_failure.txt")

    def fail_with(error: Exception) -> None:
        def fail(name: str) -> None:
            raise error

        monkeypatch.setattr(extension.importlib, "import_module", fail)

    return fail_with


def test_backend_is_compiled_where_the_extension_loads():
    require_compiled()
    chosen = backend()
    assert chosen.remedy == ""
    assert "panoptic_segformer._C" in chosen.reason
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.name = "reference"


def test_extension_never_built_names_the_install_command(failing_import):
    failing_import(ModuleNotFoundError("No module named 'panoptic_segformer._C'"))
    found = extension._load_extension()
    assert found == Backend(
        "reference", "panoptic_segformer._C was never built", "pip install --no-build-isolation -e ."
    )


def test_failed_build_is_explained_by_what_setup_left(failing_import):
    failing_import(ModuleNotFoundError("No module named 'panoptic_segformer._C'"))
    extension.BUILD_FAILURE_FILE.write_text("no C++ compiler was found\ninstall g++\n", encoding="utf-8")
    assert extension._load_extension() == Backend("reference", "no C++ compiler was found", "install g++")


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("the extension was skipped on request (PANSEG_BUILD_EXTENSION=0)", pytest.skip.Exception),
        ("no C++ compiler was found when installing (looked for c++)", pytest.skip.Exception),
        ("building the extension failed (CompileError: ...)", pytest.fail.Exception),
        ("panoptic_segformer._C was never built", pytest.fail.Exception),
    ],
)
def test_broken_build_fails_the_tests_that_need_it(monkeypatch, reason, stop):
    monkeypatch.setattr(extension, "_extension", Backend("reference", reason, "build it"))
    with pytest.raises(stop, match="remedy: build it"):
        require_compiled()


def test_extension_of_another_torch_names_the_loader_error(failing_import):
    failing_import(ImportError("libtorch_cuda.so: cannot open shared object file"))
    found = extension._load_extension()
    assert found.name == "reference"
    assert torch.__version__ in found.reason
    assert "libtorch_cuda.so" in found.reason
    assert "pip install --no-build-isolation -e ." in found.remedy


def test_extension_of_older_sources_is_not_used(monkeypatch):
    require_compiled()
    monkeypatch.setattr(extension, "NEWEST_OPERATOR", "ms_deform_attn_of_tomorrow")
    found = extension._load_extension()
    assert found.name == "reference"
    assert found.reason == "panoptic_segformer._C was built from older sources"
    assert "pip install --no-build-isolation -e ." in found.remedy


def test_cuda_tensors_need_an_extension_with_cuda(monkeypatch, tmp_path):
    monkeypatch.setattr(extension, "BUILD_FAILURE_FILE", tmp_path / "_build_failure.txt")
    monkeypatch.setattr(extension, "_extension", SimpleNamespace(WITH_CUDA=0))
    assert backend("cpu").name == "compiled"
    assert backend("cuda").name == "reference"
    assert "FORCE_CUDA=1" in backend("cuda").remedy
    extension.BUILD_FAILURE_FILE.write_text("built without CUDA kernels\nset CUDA_HOME\n", encoding="utf-8")
    assert backend("cpu").name == "compiled"
    assert backend("cuda") == Backend("reference", "built without CUDA kernels", "set CUDA_HOME")
    monkeypatch.setattr(extension, "_extension", SimpleNamespace(WITH_CUDA=1))
    assert backend("cuda").name == "compiled"
    assert backend("mps").name == "reference"


def test_reference_runs_and_is_announced_once(monkeypatch, caplog):
    monkeypatch.setattr(extension, "_extension", Backend("reference", "no compiler was found", "install g++"))
    extension.announce_reference.cache_clear()
    inputs = make_inputs()
    with caplog.at_level(logging.WARNING):
        outputs = [ms_deform_attn(*inputs) for _ in range(3)]
    assert all(torch.equal(output, ms_deform_attn_reference(*inputs)) for output in outputs)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "no compiler was found" in messages[0]
    assert "install g++" in messages[0]


def test_operators_import_and_run_from_files_without_extension(tmp_path):
    package = tmp_path / "panoptic_segformer"
    shutil.copytree(Path(ops.__file__).parent, package / "ops")
    (package / "__init__.py").touch()
    script = (
        "import torch; from panoptic_segformer.ops import backend, ms_deform_attn\n"
        "value, grid = torch.ones(1, 4, 1, 2), (1, 3, 1, 1, 1)\n"
        "output = ms_deform_attn(value, [(2, 2)], torch.full((*grid, 2), 0.5), torch.ones(grid))\n"
        "print(backend().name, output.tolist())"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.stdout.strip() == f"reference {[[[1.0, 1.0]] * 3]}", result.stderr
    assert "was never built" in result.stderr
