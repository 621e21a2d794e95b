"""The extension's sources compile cleanly, and a build that fails leaves an install that says why."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

from compiled import require_compiled
from panoptic_segformer.ops.extension import EXTENSION

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c++20", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-DPy_LIMITED_API=0x030B0000"]
INCLUDES = [part for path in (*include_paths(), sysconfig.get_path("include")) for part in ("-isystem", path)]


def run(command: list, **options) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


@pytest.fixture
def project(tmp_path) -> Path:
    """Copy what setup.py needs, beside an empty package."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    package = tmp_path / "projects/panoptic_segformer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "_C.abi3.so").touch()  # Of an earlier build that went well.
    return tmp_path


def break_source(project: Path) -> None:
    empty_sources(project)
    (project / "csrc/ms_deform_attn.cpp").write_text("#error broken on purpose\n", encoding="utf-8")


def empty_sources(project: Path) -> None:
    for source in (project / "csrc").rglob("*.cpp"):
        source.write_text("// Quick to compile.\n", encoding="utf-8")


def build(project: Path, *options: str, before: str = "pass", **variables: str) -> subprocess.CompletedProcess:
    """Run setup.py as an editable install does, after a statement that changes its torch."""
    script = f"import runpy, torch; {before}; runpy.run_path('setup.py', run_name='__main__')"
    command = [sys.executable, "-c", script, "build_ext", "--inplace", *options]
    result = run(command, cwd=project, env={**os.environ, **variables})
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.parametrize(
    ("variables", "prepare", "cause"),
    [
        ({"PANSEG_BUILD_EXTENSION": "0"}, None, "skipped on request"),
        ({"CXX": "/nowhere/g++"}, None, r"no C++ compiler was found when installing (looked for /nowhere/g++)"),
        ({"FORCE_CUDA": "0"}, break_source, "building the extension failed"),
    ],
    ids=["skipped", "no compiler", "broken source"],
)
def test_failed_build_succeeds_as_install_and_leaves_the_reason(project, variables, prepare, cause):
    if prepare is not None:
        prepare(project)
    result = build(project, **variables)
    package = project / "projects/panoptic_segformer"
    written = (package / "_build_failure.txt").read_text(encoding="utf-8").splitlines()
    assert cause in written[0]
    assert "pip install --no-build-isolation -e ." in written[1]
    assert written[0] in result.stdout
    assert not (package / "_C.abi3.so").exists(), "a stale extension would be loaded"


def test_cuda_kernels_that_cannot_be_built_are_missed_aloud(project):
    empty_sources(project)
    result = build(project, before="torch.version.cuda = None", FORCE_CUDA="1")
    package = project / "projects/panoptic_segformer"
    assert (package / "_C.abi3.so").stat().st_size > 0, "the CPU kernels are built all the same"
    cause, remedy = (package / "_build_failure.txt").read_text(encoding="utf-8").splitlines()
    assert "without CUDA kernels" in cause
    assert "FORCE_CUDA=1 pip install --no-build-isolation -e ." in remedy
    assert cause in result.stdout


def test_changed_header_is_compiled_where_ninja_is_absent(project):
    built = project / "built/panoptic_segformer/_C.abi3.so"
    built.parent.mkdir(parents=True)
    (project / "csrc/ms_deform_attn.h").write_text("#error changed on purpose\n", encoding="utf-8")
    built.touch()  # Newer than all sources.
    no_ninja = "from torch.utils import cpp_extension; cpp_extension.is_ninja_available = lambda: False"
    build(project, "--build-lib", "built", before=no_ninja, FORCE_CUDA="0")
    written = (project / "projects/panoptic_segformer/_build_failure.txt").read_text(encoding="utf-8")
    assert "building the extension failed" in written


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    ["ms_deform_attn.cpp", "mask_merging.cpp", "cpu/ms_deform_attn.cpp", "cpu/mask_merging.cpp", "cpu/kernels.cpp"],
)
def test_cpu_sources_compile_without_warnings(source, tmp_path):
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    command = [compiler, "-c", ROOT / "csrc" / source, "-o", tmp_path / "kernels.o", "-O3", "-fPIC"]
    result = run([*command, "-Wall", "-Werror", *FLAGS, *INCLUDES])
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("source", ["launch.cu", "forward.cu", "backward.cu"])
def test_cuda_sources_compile_without_warnings_and_spills(source, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc: CUDA sources are compiled where a CUDA toolkit is")
    command = [nvcc, "-c", ROOT / "csrc/cuda" / source, "-o", tmp_path / "kernels.o", "-O3", "-DUSE_CUDA"]
    chips = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in (80, 90)]
    checks = ["-Xptxas=-v", "-Werror=all-warnings", "-Xcompiler=-fPIC,-Wall,-Werror"]
    result = run([*command, *chips, *checks, *FLAGS, *INCLUDES])
    assert result.returncode == 0, result.stderr
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", result.stderr)
    assert spills or source == "launch.cu", "ptxas told nothing of its kernels"
    assert set(spills) <= {"0"}, result.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have one set of kernels")
def test_newer_instructions_stay_in_the_kernels_that_are_chosen_for_them():
    """Elsewhere they would stop an older processor, also in a function of the library that the linker shares."""
    require_compiled()
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("no objdump")
    listing = run([objdump, "-d", "-C", "--no-show-raw-insn", importlib.import_module(EXTENSION).__file__]).stdout
    functions = re.split(r"^[0-9a-f]+ <(.*)>:$", listing, flags=re.MULTILINE)[1:]
    with_vectors = {name for name, body in zip(functions[::2], functions[1::2], strict=True) if "%ymm" in body}
    assert with_vectors
    assert all("panoptic_segformer::avx2::" in name for name in with_vectors), with_vectors
