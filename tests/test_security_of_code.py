"""No module of ours has a way to run data: no shell, no eval, no pickle, no careless yaml, no archive, no huge picture.

The code is parsed, so that comments and names do not count and other names for the same thing do.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*(ROOT / "projects").rglob("*.py"), ROOT / "train_net.py"])

# What is never named, whole modules too, and what to do instead.
FORBIDDEN = {
    "eval": "ast.literal_eval",
    "exec": "a function",
    "compile": "a function",
    "__import__": "importlib.import_module",
    "os.system": "subprocess.run",
    "os.popen": "subprocess.run",
    "subprocess.getoutput": "subprocess.run",
    "subprocess.getstatusoutput": "subprocess.run",
    "asyncio.create_subprocess_shell": "create_subprocess_exec",
    "pickle.load": "checkpoint.pickles",
    "pickle.loads": "checkpoint.pickles",
    "pickle.Unpickler": "checkpoint.pickles",
    "dill": "json",
    "cloudpickle": "json",
    "joblib": "json",
    "shelve": "json",
    "marshal": "json",
    "pandas.read_pickle": "json",
    "torch.hub": "checkpoint.download",
    "yaml.load": "yaml.safe_load",
    "yaml.load_all": "yaml.safe_load_all",
    "yaml.unsafe_load": "yaml.safe_load",
    "yaml.full_load": "yaml.safe_load",
    "detectron2.config.LazyConfig": "a config in yaml",
    "zipfile": "a converter that checks the names",
    "tarfile": "a converter that checks the names",
    "shutil.unpack_archive": "a converter that checks the names",
    "tempfile.mktemp": "tempfile.mkstemp",
    "PIL.Image.MAX_IMAGE_PIXELS": "Pillow's limit",
    "PIL.ImageFile.LOAD_TRUNCATED_IMAGES": "Pillow's refusal",
}
# Calls that need an argument of a certain value, by the ends of their names.
REQUIRED = {
    "torch.load": ("weights_only", True),
    ".merge_from_file": ("allow_unsafe", False),
    ".load_yaml_with_base": ("allow_unsafe", False),
}
# Arguments that never have a certain value.
REFUSED = {"shell": True, "allow_pickle": True, "weights_only": False, "allow_unsafe": True, "verify": False}

TRUSTED = "a comparison's 'trust: true' asks for it, model by model"
# By file and what is named in it, with the reason.
ALLOWED = {
    ("panoptic_segformer/checkpoint/checkpointer.py", "zipfile"): "compares checksums, unpacks nothing",
    ("panoptic_segformer/checkpoint/pickles.py", "pickle.Unpickler"): "refuses all but numpy arrays",
    ("panoptic_segformer/comparison/blueprint.py", "detectron2.config.LazyConfig"): "a config that ends in .py is code",
    ("panoptic_segformer/comparison/weights.py", "pickle.load"): TRUSTED,
    ("panoptic_segformer/comparison/weights.py", "torch.load(weights_only)"): TRUSTED,
    ("panoptic_segformer/comparison/weights.py", "weights_only=False"): TRUSTED,
    ("panoptic_segformer/data/cache.py", "zipfile"): "the name of numpy's error",
}


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Return what each imported name of a module stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """Return the dotted name of an expression, "" where it has none; what it is an attribute of may be unknown."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value, names)}.{node.attr}"
    return ""


def findings(code: str) -> set[str]:
    """Return what a module does that it should not."""
    tree = ast.parse(code)
    names = imported_names(tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= forbidden_imports(node)
        elif isinstance(node, ast.Name | ast.Attribute):
            found |= {name for name in FORBIDDEN if full_name(node, names) == name}
        elif isinstance(node, ast.Call):
            found |= careless_call(node, full_name(node.func, names))
    return found


def forbidden_imports(node: ast.Import | ast.ImportFrom) -> set[str]:
    module = [f"{node.module}."] if isinstance(node, ast.ImportFrom) and not node.level else [""]
    words = [f"{prefix}{alias.name}" for prefix in module for alias in node.names]
    return {name for name in FORBIDDEN for word in words if word == name or word.startswith(f"{name}.")}


def careless_call(node: ast.Call, name: str) -> set[str]:
    values = {keyword.arg: keyword.value for keyword in node.keywords}
    found = set()
    for end, (argument, value) in REQUIRED.items():
        given = values.get(argument)
        if f".{name}".endswith(f".{end.lstrip('.')}") and not is_constant(given, value):
            found.add(f"{end}({argument})")
    for argument, value in REFUSED.items():
        # A value that is computed may be anything.
        if argument in values and not is_constant(values[argument], not value):
            found.add(f"{argument}={value}")
    return found


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_there_is_code_to_look_at():
    assert len(FILES) > 200


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("eval('1')", "eval"),
        ("f = exec", "exec"),
        ("import os\nos.system('ls')", "os.system"),
        ("from os import system as s\ns('ls')", "os.system"),
        ("import os as o\no.popen('ls')", "os.popen"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell=True"),
        ("from subprocess import Popen\nPopen(x, shell=y)", "shell=True"),
        ("import pickle\nmap(pickle.loads, x)", "pickle.loads"),
        ("from pickle import load", "pickle.load"),
        ("import yaml as y\ny.load(f, y.Loader)", "yaml.load"),
        ("import yaml\nyaml.unsafe_load(f)", "yaml.unsafe_load"),
        ("import torch\ntorch.load(f)", "torch.load(weights_only)"),
        ("from torch import load\nload(f, weights_only=x)", "torch.load(weights_only)"),
        ("import torch\ntorch.load(f, weights_only=False)", "weights_only=False"),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", "allow_pickle=True"),
        ("cfg.merge_from_file(f)", ".merge_from_file(allow_unsafe)"),
        ("cfg.merge_from_file(f, allow_unsafe=True)", "allow_unsafe=True"),
        ("import zipfile", "zipfile"),
        ("from tarfile import open", "tarfile"),
        ("from PIL import Image\nImage.MAX_IMAGE_PIXELS = None", "PIL.Image.MAX_IMAGE_PIXELS"),
        ("import PIL.Image\nPIL.Image.MAX_IMAGE_PIXELS = None", "PIL.Image.MAX_IMAGE_PIXELS"),
    ],
)
def test_what_is_careless_is_found(code, expected):
    assert expected in findings(code)


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import torch\ntorch.compile(model)\ntorch.load(f, weights_only=True)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "import yaml\nyaml.safe_load(f)",
        "import json\njson.load(f)",
        "import re\nre.compile('eval(x)')  # eval(x)",
        "import pickle\ntry: f()\nexcept pickle.UnpicklingError: pass",
        "cfg.merge_from_file(f, allow_unsafe=False)",
    ],
)
def test_what_is_careful_is_not_found(code):
    assert findings(code) == set()


def test_no_module_has_a_way_to_run_data():
    found = {
        (path.relative_to(ROOT).as_posix().removeprefix("projects/"), finding)
        for path in FILES
        for finding in findings(path.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)
