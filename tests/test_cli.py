from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from fvcore.transforms.transform import NoOpTransform
from PIL import Image
from torch import nn

import panoptic_segformer
from panoptic_segformer import cli, environment
from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_segformer.cli import main
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.environment import Fact
from panoptic_segformer.inference import loading
from panoptic_segformer.inference.result import DRAWING_STYLES
from panoptic_segformer.verbs import demo as demo_verb
from tiny import tiny_overrides


class FakeModel:
    """Of one thing and one stuff class; the left half of every picture is the thing."""

    categories = Categories((0,), (1,), ("cat",), ("grass",), ((200, 0, 0),), ((0, 200, 0),))

    def __call__(self, inputs):
        return [{"panoptic_seg": self.segments(entry["height"], entry["width"])} for entry in inputs]

    def segments(self, height, width):
        ids = torch.ones((height, width), dtype=torch.int32)
        ids[:, width // 2 :] = 2
        columns = ((1, 0, True, 0.9, width // 2), (2, 1, False, 0.8, width - width // 2))
        keys = ("id", "category_id", "isthing", "score", "area")
        return ids, [dict(zip(keys, (*values, height * wide), strict=True)) for *values, wide in columns]


class FakePredictor:
    """In place of DefaultPredictor; remembers its config."""

    cfg = None
    input_format = "BGR"
    aug = SimpleNamespace(get_transform=lambda image: NoOpTransform())

    def __init__(self, cfg):
        type(self).cfg = cfg
        self.model = FakeModel()


class FakeCheckpointer:
    """In place of PanopticCheckpointer; remembers what it loads."""

    weights = None

    def __init__(self, model):
        pass

    def load(self, weights):
        type(self).weights = weights


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Arguments of a demo that works, by name; the model is a fake."""
    monkeypatch.setattr(loading, "DefaultPredictor", FakePredictor)
    monkeypatch.setattr(loading, "PanopticCheckpointer", FakeCheckpointer)
    (tmp_path / "config.yaml").write_text("DATASETS: {TEST: [of_the_fake]}\n")
    (tmp_path / "weights.pth").write_bytes(b"for a fake")
    (tmp_path / "in").mkdir()
    for stem in ("a", "b"):
        Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / "in" / f"{stem}.png")
    return {
        "--config-file": tmp_path / "config.yaml",
        "--weights": tmp_path / "weights.pth",
        "--input": tmp_path / "in",
        "--output": tmp_path / "out",
    }


def run(options, *more):
    return main(["demo", *(str(word) for option in options.items() for word in option), *map(str, more)])


def test_demo_writes_an_overlay_per_picture(demo, capsys):
    assert run(demo) == 0
    assert sorted(os.listdir(demo["--output"])) == ["a.png", "b.png"]
    assert "wrote 2 of 2 results" in capsys.readouterr().out
    assert np.asarray(Image.open(demo["--output"] / "a.png")).std() > 0


def test_demo_passes_weights_device_and_overrides_to_the_config(demo):
    assert run(demo, "--device", "cpu", "--opts", "INPUT.MIN_SIZE_TEST", "123") == 0
    cfg = FakePredictor.cfg
    assert str(demo["--weights"]) == FakeCheckpointer.weights
    assert cfg.MODEL.DEVICE == "cpu"
    assert cfg.INPUT.MIN_SIZE_TEST == 123
    assert not cfg.MODEL.PANOPTIC_SEGFORMER.TEST.INSTANCE_ON


def test_demo_device_auto_takes_what_is_there(demo):
    assert run(demo) == 0
    assert ("cuda" if torch.cuda.is_available() else "cpu") == FakePredictor.cfg.MODEL.DEVICE


def test_demo_unreadable_picture_is_named_and_the_exit_code_tells(demo, capsys):
    (demo["--input"] / "broken.jpg").write_text("not a picture")
    assert run(demo) == 1
    captured = capsys.readouterr()
    assert "wrote 2 of 3 results" in captured.out
    assert "broken.jpg was left out" in captured.err
    assert sorted(os.listdir(demo["--output"])) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--config-file", "absent.yaml", "absent.yaml does not exist"),
        ("--weights", "absent.pth", "weights 'absent.pth' do not exist"),
        ("--weights", "", "weights '' do not exist"),
        ("--input", "absent.jpg", "absent.jpg does not exist"),
        ("--input", "empty", "has no pictures"),
        ("--input", "*.nothing", "no picture matches"),
        ("--output", "config.yaml", "config.yaml"),
    ],
)
def test_demo_wrong_option_gives_one_plain_message(demo, tmp_path, capsys, monkeypatch, option, value, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert run({**demo, option: value}) == 2
    error = capsys.readouterr().err
    assert error.startswith("panseg demo: ")
    assert message in error
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["--draw", "boxes", "contours"]])
def test_demo_drawing_that_would_replace_a_picture_is_found_before_the_model_is_loaded(demo, capsys, words):
    if words:
        (demo["--input"] / "contours").mkdir()
        shutil.move(demo["--input"] / "a.png", demo["--input"] / "contours/a.png")
        picture = demo["--input"] / "contours/a.png"
    else:
        picture = demo["--input"] / "a.png"
    before = picture.read_bytes()
    options = {**demo, "--weights": "absent.pth", "--output": demo["--input"]}
    assert run({**options, "--input": picture}, *words) == 2
    assert f"the drawing of {picture.resolve()} would replace it" in capsys.readouterr().err
    assert picture.read_bytes() == before


def test_demo_wrong_override_gives_one_plain_message(demo, capsys):
    assert run(demo, "--opts", "MODEL.NO_SUCH_KEY", "1") == 2
    assert "NO_SUCH_KEY" in capsys.readouterr().err
    assert run(demo, "--opts", "INPUT.MIN_SIZE_TEST") == 2
    assert "INPUT.MIN_SIZE_TEST" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_demo_gpu_that_is_not_there_gives_one_plain_message(demo, capsys):
    assert run(demo, "--device", "cuda") == 2
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("num_bytes", [0, 100, 2000, 100_000])
def test_demo_truncated_weights_give_one_plain_message(demo, capsys, monkeypatch, num_bytes):
    whole = demo["--weights"]
    torch.save({"model": {"weight": torch.zeros(100_000)}}, whole)
    whole.write_bytes(whole.read_bytes()[:num_bytes])

    monkeypatch.setattr(loading, "PanopticCheckpointer", lambda _: PanopticCheckpointer(nn.Linear(1, 1)))
    assert run(demo) == 2
    assert f"{whole} ({num_bytes} bytes) can't be read" in capsys.readouterr().err


def released(path):
    torch.save({"meta": {}, "state_dict": {}}, path)


def truncated(path):
    torch.save({"model": {"weight": torch.zeros(100_000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("write", "message"), [(truncated, "{} (2000 bytes) can't be read"), (released, "MODEL.WEIGHTS psf://{}")]
)
def test_demo_weights_that_detectron2_cannot_load_give_one_plain_message(
    demo, tiny_config, config_dir, tmp_path, capsys, monkeypatch, write, message
):
    monkeypatch.setattr(loading, "DefaultPredictor", DefaultPredictor)
    monkeypatch.setattr(loading, "PanopticCheckpointer", PanopticCheckpointer)
    write(demo["--weights"])
    config = config_dir / "synthetic" / "panoptic_segformer_lite0.yaml"
    opts = [*tiny_overrides(tmp_path), "MODEL.TIMM.WEIGHTS", ""]
    assert run({**demo, "--config-file": config}, "--device", "cpu", "--opts", *opts) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("panseg demo: ")
    assert message.format(demo["--weights"]) in last


def test_demo_error_of_the_program_is_not_hidden(demo, monkeypatch):
    def predictor(cfg):
        raise RuntimeError("out of memory")

    torch.save({"model": {}}, demo["--weights"])
    monkeypatch.setattr(loading, "DefaultPredictor", predictor)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(demo)


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ([], ["a.png", "b.png"]),
        (["--draw", "contours"], ["a.png", "b.png"]),
        (
            ["--draw", "boxes", "side-by-side"],
            ["boxes/a.png", "boxes/b.png", "side-by-side/a.png", "side-by-side/b.png"],
        ),
        (["--draw", "--save", "masks"], ["masks/a/0001_cat.png", "masks/b/0002_grass.png"]),
        (["--draw", "overlay", "overlay"], ["a.png", "b.png"]),
        (["--batch", "2"], ["a.png", "b.png"]),
    ],
)
def test_demo_draws_what_is_asked_for(demo, words, written):
    assert run(demo, *words) == 0
    found = {str(path.relative_to(demo["--output"])) for path in demo["--output"].rglob("*.png")}
    assert found == set(written) if "masks" not in words else found > set(written)


def test_demo_without_labels_and_legend_keeps_the_size(demo):
    assert run(demo, "--no-labels", "--no-legend") == 0
    assert Image.open(demo["--output"] / "a.png").size == (40, 30)


def test_demo_saves_predictions_for_other_tools(demo):
    MetadataCatalog.get("of_the_fake").set(
        thing_dataset_id_to_contiguous_id={7: 0}, stuff_dataset_id_to_contiguous_id={9: 1}
    )
    assert run(demo, "--save", "panoptic") == 0
    assert sorted(os.listdir(demo["--output"])) == ["a.png", "b.png", "panoptic"]
    content = json.loads((demo["--output"] / "panoptic/predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png"]
    assert {segment["category_id"] for one in content["annotations"] for segment in one["segments_info"]} == {7, 9}
    MetadataCatalog.remove("of_the_fake")


def test_demo_thresholds_go_to_the_config(demo):
    words = ["MODEL.META_ARCHITECTURE", "PanopticSegFormer"]
    assert run(demo, "--score-threshold", "0.1", "--overlap-threshold", "0.9", "--opts", *words) == 0
    node = FakePredictor.cfg.MODEL.PANOPTIC_SEGFORMER.MERGING
    assert (node.SCORE_THRESHOLD, node.THING_OVERLAP_THRESHOLD, node.MASK_THRESHOLD) == (0.1, 0.9, 0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--draw"], "nothing is drawn and nothing saved"),
        (["--draw", "queries"], "FakeModel has no queries"),
        (
            ["--score-threshold", "-1", "--opts", "MODEL.META_ARCHITECTURE", "PanopticSegFormer"],
            "score threshold is -1",
        ),
        (["--mask-threshold", "0.4", "--opts", "MODEL.META_ARCHITECTURE", "PSFDetrPanoptic"], "no mask threshold"),
    ],
)
def test_demo_wrong_wish_gives_one_plain_message(demo, capsys, words, message):
    assert run(demo, *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("panseg demo: ")
    assert message in error


@pytest.mark.parametrize("words", [["--draw", "sketch"], ["--batch", "0"], ["--frames", "x"], ["--save", "coco"]])
def test_demo_wrong_word_exits_with_2(demo, words):
    with pytest.raises(SystemExit) as stopped:
        run(demo, *words)
    assert stopped.value.code == 2


def film(path, number=4):
    pytest.importorskip("av", reason="needs PyAV, the extra `video`")
    from panoptic_segformer.inference.video import write_video

    with write_video(path, Fraction(25)) as writer:
        for _ in range(number):
            writer.add(np.full((48, 64, 3), 90, np.uint8))
    return path


def frames_of(path):
    from panoptic_segformer.inference.video import open_frames

    with open_frames(path) as frames:
        return list(frames.pixels)


def test_demo_pictures_and_videos_together(demo, tmp_path, capsys):
    film(demo["--input"] / "walk.mp4")
    (demo["--input"] / "broken.avi").write_text("not a video")
    assert run(demo, "--batch", "3") == 1
    captured = capsys.readouterr()
    assert "wrote 3 of 4 results" in captured.out
    assert "broken.avi was left out" in captured.err
    assert sorted(os.listdir(demo["--output"])) == ["a.png", "b.png", "walk.mp4"]
    frames = frames_of(demo["--output"] / "walk.mp4")
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 4


def test_demo_of_a_video_in_two_styles_stops_after_some_frames(demo, tmp_path):
    demo["--input"] = film(tmp_path / "walk.mp4")
    assert run(demo, "--draw", "overlay", "contours", "--frames", "2") == 0
    for style in ("overlay", "contours"):
        assert len(frames_of(demo["--output"] / style / "walk.mp4")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save", "panoptic"], "--save is for pictures"),
        (["--draw", "queries"], "--draw queries is for pictures"),
    ],
)
def test_demo_what_videos_cannot_have_gives_one_plain_message(demo, tmp_path, capsys, words, message):
    demo["--input"] = film(tmp_path / "walk.mp4")
    assert run(demo, *words) == 2
    assert message in capsys.readouterr().err


def test_demo_never_replaces_a_video(demo, tmp_path, capsys):
    demo["--input"] = film(tmp_path / "walk.mp4")
    demo["--output"] = tmp_path
    assert run(demo) == 2
    assert "would replace it" in capsys.readouterr().err


def test_demo_of_a_video_without_its_library_names_the_extra(demo, tmp_path, capsys, monkeypatch):
    (tmp_path / "walk.mp4").write_bytes(b"never opened")
    monkeypatch.setitem(sys.modules, "av", None)
    assert run({**demo, "--input": tmp_path / "walk.mp4"}) == 2
    assert "'.[video]'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="cameras are files on Linux alone")
def test_demo_of_a_camera_that_is_not_there_gives_one_plain_message(demo, tmp_path, capsys, monkeypatch):
    pytest.importorskip("av", reason="needs PyAV, the extra `video`")
    monkeypatch.chdir(tmp_path)
    assert run({**demo, "--input": "87"}) == 2
    assert "camera 87 is not there" in capsys.readouterr().err


def test_demo_offers_the_styles_that_results_can_draw():
    assert demo_verb.STYLES == DRAWING_STYLES


def test_info_prints_facts_and_how_to_mend_what_is_missing(capsys, monkeypatch):
    facts = [Fact("python", "3.11"), Fact("timm", "missing", "pip install timm")]
    monkeypatch.setattr(environment, "collect_facts", lambda: facts)
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["python  3.11", "timm    missing"]
    assert lines[-1] == "timm    pip install timm"


def test_info_of_this_environment_names_operator_and_versions(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert "operator" in printed


def test_synthesize_writes_a_dataset(tmp_path, capsys):
    assert main(["synthesize", "--output", str(tmp_path / "scenes"), "--num", "2", "--seed", "5"]) == 0
    assert "wrote 2 scenes" in capsys.readouterr().out
    (content,) = [json.loads(path.read_text()) for path in (tmp_path / "scenes").glob("*.json")]
    assert len(content["images"]) == 2


def test_synthesize_number_below_one_gives_one_plain_message(tmp_path, capsys):
    assert main(["synthesize", "--output", str(tmp_path), "--num", "0"]) == 2
    assert "0 scenes" in capsys.readouterr().err


def test_configs_prints_a_line_per_config(config_dir, capsys):
    assert main(["configs", "--folder", str(config_dir / "coco")]) == 0
    lines = capsys.readouterr().out.splitlines()
    complete = [path for path in (config_dir / "coco").glob("*.yaml") if not path.name.startswith("Base-")]
    assert len(lines) == 2 + len(complete)
    released = next(line for line in lines if line.startswith("| panoptic_segformer_r50_2x "))
    cells = [cell.strip() for cell in released.strip("|").split("|")]
    assert cells == ["panoptic_segformer_r50_2x", "ResNet-50", "354,861 x 8", "decoupled", "80", "53", "51.22"]


def test_configs_says_why_classes_are_unknown(config_dir, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert main(["configs", "--folder", str(config_dir / "synthetic")]) == 0
    assert "classes come from the dataset's json" in capsys.readouterr().out


def test_configs_of_a_wrong_folder_gives_one_plain_message(tmp_path, capsys):
    assert main(["configs", "--folder", str(tmp_path)]) == 2
    assert "holds no config" in capsys.readouterr().err


def test_analyze_prints_parts_operators_and_what_is_not_counted(tiny_config, config_dir, tmp_path, capsys):
    parameters = sum(parameter.numel() for parameter in build_model(tiny_config()).parameters())
    config = str(config_dir / "synthetic/panoptic_segformer_lite0.yaml")
    words = ["analyze", "--config-file", config, "--size", "64", "96", "--opts", *tiny_overrides(tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "64x96 (height x width)" in printed
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    parts = {row[0]: row[1:] for row in rows if len(row) == 4}
    assert parts["total"][0] == f"{parameters:,}"
    numbers = [float(cells[2]) for name, cells in parts.items() if name[0].islower() and name not in ("part", "total")]
    assert sum(numbers) == pytest.approx(float(parts["total"][2]), abs=0.04)
    assert {"linear", "conv", "attention", "deformable attention"} <= {row[0] for row in rows if len(row) == 2}
    assert "operators without a count (times run): " in printed


@pytest.mark.parametrize(
    ("side", "message"), [("8", "8 pixels are too few"), ("big", "invalid number of pixels 'big'")]
)
def test_analyze_wrong_size_exits_with_2(side, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["analyze", "--config-file", "c.yaml", "--size", side, "64"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["demo"], ["no-such-verb"]])
def test_main_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: panseg" in capsys.readouterr().err


def run_alone(code):
    """Run code in a fresh interpreter where the package's __init__ is not executed, only the modules it names."""
    folder = str(Path(panoptic_segformer.__path__[0]))
    stand_in = (
        "import sys, types; package = types.ModuleType('panoptic_segformer'); "
        f"package.__path__ = [{folder!r}]; sys.modules['panoptic_segformer'] = package\n"
    )
    return subprocess.run([sys.executable, "-c", stand_in + code], capture_output=True, text=True, check=False)


def test_help_imports_no_library():
    done = run_alone(
        "from panoptic_segformer.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    print([name for name in ('torch', 'numpy', 'detectron2') if name in sys.modules])\n"
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for verb in ("info", "demo", "configs", "analyze", "benchmark", "synthesize"):
        assert verb in done.stdout


def test_info_without_any_library_names_them_all():
    done = run_alone(
        f"for name in {sorted(environment.LIBRARIES)}: sys.modules[name] = None\n"
        "from panoptic_segformer.cli import main\n"
        "sys.exit(main(['info']))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("missing") >= len(environment.LIBRARIES)
    assert "pip install" in done.stdout


def test_demo_without_detectron2_points_to_info(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "detectron2.utils.logger", None)
    words = ["demo", "--config-file", "c.yaml", "--weights", "w.pth", "--input", "a.png", "--output", "out"]
    assert main(words) == cli.USER_ERROR
    assert "`panseg info` tells what is missing" in capsys.readouterr().err
