"""What docs/compare.md says: the parameters of the configs, the form of the file, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from panoptic_segformer import load_config
from panoptic_segformer.analysis import build_for_sizing, count_parameters
from panoptic_segformer.comparison.spec import read_spec

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/compare.md").read_text(encoding="utf-8")
# Config, parameters and trainable parameters of each row that names a config.
ROWS = re.findall(r"^\| `([\w/]+)` .*? ([\d,]+) \(([\d,]+)\) \|", TEXT, flags=re.MULTILINE)


def test_every_row_of_a_config_is_read():
    assert len(ROWS) == len(re.findall(r"^\| `\w+/", TEXT, flags=re.MULTILINE)) >= 15


@pytest.mark.parametrize(("name", "total", "trainable"), ROWS, ids=[name for name, *_ in ROWS])
def test_measured_parameters_are_those_of_the_config(name, total, trainable):
    opts = ["MODEL.TIMM.WEIGHTS", ""] if "swin" in name else []
    size = count_parameters(build_for_sizing(load_config(ROOT / f"configs/{name}.yaml", opts), "meta"))
    assert (f"{size.total:,}", f"{size.trainable:,}") == (total, trainable)


def test_example_of_the_file_is_read(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    for model in yaml.safe_load(block)["models"]:
        for name in (model["config"], model["weights"], *(f"{path}/x" for path in model.get("paths", []))):
            if "://" not in name:
                file = tmp_path / "project" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
    path = tmp_path / "project/streets.yaml"
    path.write_text(block)
    spec = read_spec(path)
    assert [model.name for model in spec.models] == ["Panoptic SegFormer", "MaskFormer", "Mask2Former"]
    assert spec.models[0].published == {"PQ": 49.6, "source": "authors' release"}
    assert spec.models[1].opts == ("MODEL.MASK_WISE_MERGING.ENABLED", True)
    assert len(spec.models[2].setup) == 2
    assert spec.dataset.limit == 100


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
