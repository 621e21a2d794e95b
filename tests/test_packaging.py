"""An install that is not editable has every file of the package, those that are no Python too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What builds of the compiled operator leave in the tree, with and without success.
BUILT = ("_C.", "_build_failure.")


def files(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts and not path.name.startswith(BUILT)}


def test_every_file_of_the_package_is_installed(tmp_path):
    # The part of a build that copies files, without the compiled operator.
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = files(ROOT / "projects/panoptic_segformer")
    assert any(not name.endswith(".py") for name in expected)
    assert files(tmp_path / "panoptic_segformer") == expected
