"""Package map and build of the C++/CUDA operator; an operator that can't be built does not fail the install.

Run as `pip install --no-build-isolation -e .`, so that the extension is built for the torch that is there.

PANSEG_BUILD_EXTENSION=0 skips the extension. FORCE_CUDA=1 builds CUDA kernels on a machine without a GPU,
FORCE_CUDA=0 leaves them out on one that has a GPU. TORCH_CUDA_ARCH_LIST and MAX_JOBS are torch's own.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = "panoptic_segformer"
REBUILD = "pip install --no-build-isolation -e ."
# What each brings is in requirements/extras.
EXTRAS = ("export", "page", "ray", "robustness", "video")
# torch 2.11, the oldest with every part of the stable ABI that csrc uses: one binary runs on it and on later ones.
OLDEST_TORCH = (2, 11)
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"
# Chips from Ampere on; newer ones than Hopper compile the PTX when they first run it.
DEFAULT_CUDA_ARCHITECTURES = "8.0;9.0+PTX"


def find_cuda_home() -> Path | None:
    """Return a complete CUDA toolkit's folder.

    torch derives it from the place of `nvcc`, which may be a wrapper script far from headers and libraries.
    """
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parents[1], "/usr/local/cuda"]
    for candidate in map(Path, filter(None, candidates)):
        headers = [candidate / "include", *candidate.glob("targets/*/include")]  # The second is conda's layout.
        if (candidate / "bin/nvcc").is_file() and any((path / "cuda_runtime.h").is_file() for path in headers):
            return candidate
    return None


cuda_home = find_cuda_home()
if cuda_home is not None:
    os.environ["CUDA_HOME"] = str(cuda_home)  # Read when torch.utils.cpp_extension is imported.

try:
    import torch
    from torch.utils import cpp_extension
except ImportError as error:
    sys.exit(
        f"torch can't be imported ({error}): install it first (pip install torch torchvision), then run "
        f"`{REBUILD}` (without --no-build-isolation pip hides the installed torch)."
    )


def wants_cuda() -> bool:
    """Return whether CUDA kernels are asked for."""
    force = os.environ.get("FORCE_CUDA")
    return force == "1" or (force is None and torch.cuda.is_available())


def why_no_cuda() -> tuple[str, str] | None:
    """Return (cause, remedy) where CUDA kernels can't be built, else None."""
    cause = "the extension was built without CUDA kernels"
    if torch.version.cuda is None:
        return f"{cause}: torch {torch.__version__} has no CUDA", f"install torch for CUDA, then FORCE_CUDA=1 {REBUILD}"
    if cuda_home is None:
        return (
            f"{cause}: no toolkit with bin/nvcc and headers was found (looked at CUDA_HOME, nvcc, /usr/local/cuda)",
            f"install the CUDA {torch.version.cuda} toolkit or set CUDA_HOME, then FORCE_CUDA=1 {REBUILD}",
        )
    return None


def make_extension() -> cpp_extension.CppExtension:
    """Describe the extension's sources and flags."""
    sources = [f"csrc/{name}.cpp" for name in ("ms_deform_attn", "mask_merging")]
    sources += [f"csrc/cpu/{name}.cpp" for name in ("ms_deform_attn", "mask_merging", "kernels")]
    flags = {"cxx": ["-std=c++20", "-O3", "-g0", "-Wall", STABLE_ABI]}
    kind = cpp_extension.CppExtension
    if wants_cuda() and why_no_cuda() is None:
        sources += [f"csrc/cuda/{name}.cu" for name in ("launch", "forward", "backward")]
        flags["cxx"].append("-DUSE_CUDA")
        flags["nvcc"] = ["-std=c++20", "-O3", "-DUSE_CUDA", STABLE_ABI]
        kind = cpp_extension.CUDAExtension
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHITECTURES)
    return kind(f"{PACKAGE}._C", sources, extra_compile_args=flags, py_limited_api=True)


def why_not_buildable() -> tuple[str, str] | None:
    """Return (cause, remedy) where building needs no try, else None."""
    if os.environ.get("PANSEG_BUILD_EXTENSION") == "0":
        return "the extension was skipped on request (PANSEG_BUILD_EXTENSION=0)", f"run {REBUILD}"
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        return f"torch {torch.__version__} is older than 2.11", f"update torch, then run {REBUILD}"
    compiler = cpp_extension.get_cxx_compiler()
    if shutil.which(compiler.split()[0]) is None:
        cause = f"no C++ compiler was found when installing (looked for {compiler})"
        return cause, f"install g++ (Debian, Ubuntu: apt install g++), then run {REBUILD}"
    return None


class BuildExtension(cpp_extension.BuildExtension):
    """Build the extension, or leave the reason why not where the package reads it."""

    def run(self) -> None:
        """Build; on failure go on without the extension."""
        inplace = self.inplace
        self.force = True  # What is compiled depends on headers, torch and variables too, which have no time stamp.
        failure = why_not_buildable()
        if failure is None:
            try:
                super().run()
            except Exception as error:  # Compilers, ninja and torch's checks each raise a kind of their own.
                message = str(error).partition("\n")[0]
                cause = f"building the extension failed ({type(error).__name__}: {message})"
                failure = cause, f"mend what `{REBUILD} -v` prints, or leave CUDA out by FORCE_CUDA=0"
        package = ROOT / "projects" / PACKAGE if inplace else Path(self.build_lib) / PACKAGE
        report = package / "_build_failure.txt"
        report.unlink(missing_ok=True)
        devices = "all devices"
        if failure is not None:
            for stale in package.glob("_C.*"):  # Of an earlier build: it may not fit today's sources.
                stale.unlink()
            self.extensions = []  # Nothing to copy or to list as built.
        elif wants_cuda():
            failure, devices = why_no_cuda(), "CUDA devices"
        if failure is None:
            return
        package.mkdir(parents=True, exist_ok=True)
        report.write_text("\n".join(failure) + "\n", encoding="utf-8")
        print(f"{PACKAGE}: {failure[0]}. The slower reference operator will run on {devices}. Remedy: {failure[1]}")


def requirements(name: str) -> list[str]:
    """Read the requirements of a file in `requirements/`."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="panoptic-segformer",
    version="0.1.0",
    description="Panoptic SegFormer for Detectron2",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(where="projects"),
    package_dir={"": "projects"},
    package_data={
        f"{PACKAGE}.analysis": ["*.yaml"],
        f"{PACKAGE}.comparison.page": ["*.css", "*.html", "*.js"],
        f"{PACKAGE}.web_page": ["*.css", "*.js"],
    },
    # Detectron2 is left to the user: the names and requirements of its distributions are not to be relied on.
    install_requires=requirements("runtime.txt"),
    extras_require={
        name: requirements(f"extras/{name}.txt") for name in ("export", "page", "ray", "robustness", "video")
    },
    entry_points={"console_scripts": ["panseg = panoptic_segformer.cli:main"]},
    ext_modules=[make_extension()],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
