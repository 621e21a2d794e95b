"""Set up an environment that runs Panoptic SegFormer; `make` calls this once.

An interpreter that already imports Detectron2 is used as it is and only gets what it lacks. Any other
one is left untouched: a virtual environment is made in `.venv` with pinned versions. The interpreter
to use is written to the stamp file, which `make` reads.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
UV = "uv==0.13.8"  # An installer several times as fast as pip; it stays inside the virtual environment.
OLDEST_PYTHON = (3, 11)
# The Detectron2 wheel is tagged for CPython 3.10 although it is used as pure Python.
DETECTRON2_TAG = "3.10"


def main() -> None:
    """Install everything and write the interpreter's path to the stamp file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stamp", type=Path, required=True, help="file that receives the interpreter's path")
    stamp = parser.parse_args().stamp
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Python {found} is too old, 3.11 or newer is needed: run `make PYTHON=python3.11 ...`")
    if imports("detectron2"):
        print(f"using the Detectron2 that {sys.executable} already has")
        python = Path(sys.executable)
        complete_existing(python)
    else:
        python = create_virtual_environment(ROOT / ".venv")
    build_package(python)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(f"{python}\n", encoding="utf-8")


def imports(module: str) -> bool:
    """Return whether the running interpreter can import `module` (tried in a process of its own)."""
    command = [sys.executable, "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True, cwd=REQUIREMENTS, check=False).returncode == 0


def complete_existing(python: Path) -> None:
    """Add what an environment with Detectron2 lacks; torch stays as it is, and every version that will do."""
    pip = [python, "-m", "pip", "install", "--quiet"]
    run(*pip, *requirement_files("build.txt", "runtime.txt", "develop.txt"))
    for module in ("panopticapi", "imagecorruptions"):
        if not imports(module):
            run(*pip, "--no-deps", "--require-hashes", "-r", REQUIREMENTS / f"{module}.txt")


def create_virtual_environment(folder: Path) -> Path:
    """Make `folder` a virtual environment with all pinned requirements and return its interpreter."""
    run(sys.executable, "-m", "venv", folder)
    windows = sys.platform == "win32"
    python = folder / ("Scripts/python.exe" if windows else "bin/python")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV)
    install = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    files = requirement_files("torch.txt", "build.txt", "runtime.txt", "develop.txt")
    run(*install, *files, "-c", REQUIREMENTS / "constraints.txt")
    exact = [*install, "--no-deps", "--require-hashes"]
    run(*exact, *requirement_files("panopticapi.txt", "imagecorruptions.txt"))
    run(*exact, "--python-version", DETECTRON2_TAG, "-r", REQUIREMENTS / "detectron2.txt")
    remove_strays(Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)})))
    return python


def requirement_files(*names: str) -> list[object]:
    """Return the installer's arguments for files in this folder."""
    return [argument for name in names for argument in ("-r", REQUIREMENTS / name)]


def remove_strays(site_packages: Path) -> None:
    """Delete what the Detectron2 wheel brings and nobody may import."""
    # A top-level package `tools` that would shadow a project's own.
    shutil.rmtree(site_packages / "tools", ignore_errors=True)
    # A compiled module for CPython 3.10 alone, of unknown build.
    for binary in (site_packages / "detectron2").glob("_C.cpython-310-*"):
        binary.unlink()


def build_package(python: Path) -> None:
    """Install the project in place; its compiled extension is built when a compiler is there."""
    if subprocess.run([python, "-m", "uv", "--version"], capture_output=True, check=False).returncode == 0:
        install = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    else:
        install = [python, "-m", "pip", "install", "--quiet"]
    # PATH first has the environment's own ninja.
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    run(*install, "--no-build-isolation", "--no-deps", "-e", ROOT, env=environment)


def run(*command: object, env: dict[str, str] | None = None) -> None:
    """Run one command, echo it, and stop with its exit code if it fails."""
    words = [str(word) for word in command]
    print("+", " ".join(words), flush=True)
    code = subprocess.run(words, env=env, check=False).returncode
    if code:
        sys.exit(f"the set-up stopped: this command failed with exit code {code}:\n  {' '.join(words)}")


if __name__ == "__main__":
    main()
