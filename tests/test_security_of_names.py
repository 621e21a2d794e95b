"""Names that come out of files lead nowhere but where they should, and pictures that unpack to gigabytes are refused.

Converters, savers and pages are all that writes under names from data. No converter reads archives, so there is no zip
whose names could lead out of a folder; that it stays so is tested in test_security_of_code.py.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from panoptic_segformer.comparison.material import picture_names
from panoptic_segformer.data.conversion.instances import convert_instances
from panoptic_segformer.data.conversion.labelme import convert_labelme
from panoptic_segformer.data.conversion.output import Output, Source, Truth
from panoptic_segformer.data.reading import read_picture
from panoptic_segformer.inference.saving import MaskSaver, PanopticSaver
from panoptic_segformer.inference.sources import output_names
from results_to_show import CATEGORIES, halves

CLASSES = [{"id": 1, "name": "ball", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
OUTSIDE = ["../../etc/passwd", "a/../../x.jpg", "/etc/x.jpg", "C:\\x.jpg", "..\\x.jpg", "\\\\host\\x.jpg", "..", ""]


def nothing_but(folder: Path, *names: str) -> None:
    """Check what a folder has: nothing was written elsewhere below it."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("name", OUTSIDE)
def test_converted_instances_stay_in_their_folder(tmp_path, name):
    work = tmp_path / "a/b/work"
    work.mkdir(parents=True)
    content = {"images": [{"id": 1, "file_name": name, "height": 4, "width": 4}], "annotations": []}
    (work / "instances.json").write_text(json.dumps({**content, "categories": CLASSES[:1]}))
    with pytest.raises(ValueError, match="file name"):
        convert_instances(work / "instances.json", work, CLASSES, Output(work / "new.json", work / "new"))
    nothing_but(work, "instances.json")
    nothing_but(tmp_path, "a")


@pytest.mark.parametrize("name", [*OUTSIDE[:4], "..\\..\\x.jpg"])
def test_converted_labelme_stays_in_its_folder(tmp_path, name):
    work = tmp_path / "a/b/work"
    work.mkdir(parents=True)
    content = {"shapes": [], "imagePath": name, "imageHeight": 4, "imageWidth": 4}
    (work / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="leads out of the folder"):
        convert_labelme(work, work, CLASSES, Output(tmp_path / "new.json", tmp_path / "new"))
    nothing_but(tmp_path, "a")


@given(
    st.lists(st.sampled_from(["..", ".", "a", "b.jpg", "", "C:", "~", "..."]), min_size=1, max_size=5), st.booleans()
)
def test_whatever_a_name_is_a_converter_writes_below_its_folder(tmp_path_factory, parts, windows):
    name = ("\\" if windows else "/").join(parts)
    top = tmp_path_factory.mktemp("top")
    output = Output(top / "a/b/c/d/e/new.json", top / "a/b/c/d/e/png")
    try:
        output.write([Source(name, None)], lambda _: Truth(np.zeros((2, 2), np.int32), {}), CLASSES)
    except ValueError:
        assert not list(top.rglob("*.png"))
        return
    (png,) = (path for path in top.rglob("*") if path.suffix == ".png")
    assert output.png in png.parents
    assert not Path(f"/{name}").with_suffix(".png").exists()


def test_converter_follows_no_link_of_an_older_result(tmp_path):
    """A folder of png that is there is not written into, so no link in it can lead elsewhere."""
    (tmp_path / "png").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "png/a").symlink_to(tmp_path / "victim")
    output = Output(tmp_path / "new.json", tmp_path / "png")
    with pytest.raises(ValueError, match="nothing is replaced"):
        output.write([Source("a/x.jpg", None)], lambda _: Truth(np.zeros((2, 2), np.int32), {}), CLASSES)
    assert not list((tmp_path / "victim").iterdir())


def test_names_of_results_are_names_alone():
    files = [Path(name) for name in ("/d/../x.jpg", "/d/..jpg", "/d/...jpg", "/d/...", "a/b.png", "c/b.png")]
    names = output_names(files) + picture_names(["../../x.jpg", "/etc/passwd", "a/b.png"])
    assert names == ["x", "picture", "picture_2", "picture_3", "a_b", "c_b", "x", "passwd", "b"]


@pytest.mark.parametrize("name", ["../../../x", "/etc/x", "..", "a\\b"])
def test_class_names_lead_no_saved_mask_elsewhere(tmp_path, name):
    (tmp_path / "a/b/masks").mkdir(parents=True)
    MaskSaver(tmp_path / "a/b/masks").add(Path("picture.jpg"), "picture", halves(thing_name=name))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 3
    assert {path.parent for path in written} == {tmp_path / "a/b/masks/picture"}


def test_link_among_the_pictures_is_read_and_not_written(tmp_path):
    """A picture may be a link; its result goes under the link's name into the folder of results."""
    (tmp_path / "victim.jpg").write_bytes(b"mine")
    (tmp_path / "pictures").mkdir()
    link = tmp_path / "pictures/p.jpg"
    link.symlink_to(tmp_path / "victim.jpg")
    (tmp_path / "out").mkdir()
    ids = {(True, 0): 1, (False, 1): 2}
    PanopticSaver(tmp_path / "out", CATEGORIES, ids, {}, link.parent).add(link, "p", halves())
    assert (tmp_path / "victim.jpg").read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "out/predictions").iterdir()] == ["p.png"]


def bomb(path: Path, side: int) -> None:
    """Write a png of a few bytes that says to have side x side pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100)))]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_bomb_is_refused_before_it_is_unpacked(tmp_path):
    bomb(tmp_path / "bomb.png", 20_000)
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="decompression bomb"):
        read_picture(tmp_path / "bomb.png", "RGB")
    assert time.perf_counter() - begin < 5
    assert Image.MAX_IMAGE_PIXELS <= 1024**3 // 4 // 3  # Pillow's own limit
