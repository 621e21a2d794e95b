"""`panseg export`: what it writes, and what becomes of wrong input."""

from __future__ import annotations

import sys

import pytest

from panoptic_segformer.cli import main
from panoptic_segformer.export import exporting
from panoptic_segformer.export.exporting import ExportOptions, check_sizes, export_model
from panoptic_segformer.export.files import FORMATS, Format, read_description
from panoptic_segformer.export.network import ExportableNetwork


@pytest.fixture
def no_tracing(monkeypatch):
    """Bad input has to be found before the work begins."""

    def refuse(*_, **__):
        raise AssertionError("the model was traced")

    monkeypatch.setattr(exporting, "export_program", refuse)


@pytest.fixture
def traced(monkeypatch, small_program):
    monkeypatch.setattr(exporting, "export_program", lambda *_, **__: small_program)


def export(config, weights, output, **options):
    return export_model(config, str(weights), output, ExportOptions(**{"format": "torch", **options}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.pt2", {"format": "coreml"}, "format 'coreml' is unknown: choose one of onnx, torch"),
        ("model.onnx", {}, r"model.onnx does not end in \.pt2"),
        ("model.onnx", {"format": "onnx", "with_operator": True}, "can't hold this project's operator"),
        ("model.pt2", {"sizes": [(64, 128)]}, "size 64x128 does not fit: .* 65 to 8192"),
        ("model.pt2", {"tolerance": 0.0}, "tolerance 0.0 is not between 0 and 1"),
        ("model.pt2", {"tolerance": float("nan")}, "tolerance nan is not between 0 and 1"),
    ],
)
def test_arguments_that_do_not_fit(no_tracing, small_config, small_weights, tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        export(small_config, small_weights, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_network_that_cannot_be_traced_is_said_in_plain_words(monkeypatch, small_config, small_weights, tmp_path):
    """As torch.export does for backbones whose steps depend on the size."""

    def fail(*_, **__):
        raise RuntimeError("Could not guard on data-dependent expression\nmany lines")

    monkeypatch.setattr(exporting, "export_program", fail)
    with pytest.raises(
        ValueError, match=r"can't trace the network \(RuntimeError: Could not guard .*expression\): .*ResNet"
    ):
        export(small_config, small_weights, tmp_path / "folder/model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_run_is_said_in_plain_words(monkeypatch, small_config, small_weights, tmp_path):
    def refuse(path):
        raise RuntimeError("NOT_IMPLEMENTED : Could not find an implementation")

    form = Format(".pt2", lambda _, __, path: path.write_text("graph"), refuse)
    monkeypatch.setattr(exporting, "export_program", lambda *_, **__: None)
    monkeypatch.setitem(FORMATS, "torch", form)
    with pytest.raises(ValueError, match="can't be written and run as torch .RuntimeError: NOT_IMPLEMENTED"):
        export(small_config, small_weights, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_views_of_test_time_augmentation_are_left_out(monkeypatch, small_config, small_weights, small_model, tmp_path):
    """The file sees a picture once; a model that joins views would differ from it."""
    cfg = small_config.clone()
    cfg.defrost()
    cfg.TEST.AUG.ENABLED = True
    same = Format(
        ".pt2", lambda _, __, path: path.write_text("graph"), lambda _: ExportableNetwork(small_model).outputs
    )
    monkeypatch.setattr(exporting, "export_program", lambda *_, **__: None)
    monkeypatch.setitem(FORMATS, "torch", same)
    (check,) = export(cfg, small_weights, tmp_path / "model.pt2", sizes=[(97, 131)])
    assert check.agreement == 1
    assert check.segments > 3


def test_missing_weights(no_tracing, small_config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights .*nowhere\.pth' do not exist"):
        export(small_config, tmp_path / "nowhere.pth", tmp_path / "model.pt2")


def test_other_architecture_names_the_one_that_can(no_tracing, config_dir, tmp_path, capsys):
    words = ["--config-file", str(config_dir / "coco/maskformer_r50.yaml"), "--weights", "w.pth", "--format", "torch"]
    assert main(["export", *words, "--output", str(tmp_path / "model.pt2")]) == 2
    assert "'PSFMaskFormer', which can't be exported: PanopticSegFormer can" in capsys.readouterr().err


@pytest.mark.parametrize("module", FORMATS["onnx"].modules)
def test_missing_library_names_its_extra(no_tracing, monkeypatch, small_config, small_weights, tmp_path, module):
    for name in FORMATS["onnx"].modules:
        monkeypatch.setitem(sys.modules, name, None if name == module else sys)
    with pytest.raises(ImportError, match=rf"{module} can't be imported.*\.\[export\]"):
        export(small_config, small_weights, tmp_path / "model.onnx", format="onnx")


def test_unknown_format_on_the_command_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", "--config-file", "a", "--weights", "b", "--output", "c", "--format", "coreml"])
    assert stop.value.code == 2
    assert "coreml" in capsys.readouterr().err


@pytest.mark.slow
def test_file_that_differs_too_much_is_not_kept(traced, small_config, small_weights, tmp_path):
    output = tmp_path / "model.pt2"
    output.write_text("of an earlier export")
    with pytest.raises(ValueError, match=r"(?s)more than 1e-12 .*not written to .*\| +97x131 "):
        export(small_config, small_weights, output, tolerance=1e-12, sizes=[(97, 131)])
    assert output.read_text() == "of an earlier export"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.slow
def test_file_is_written_and_its_parity_returned(traced, small_config, small_weights, tmp_path):
    output = tmp_path / "new/folder/model.pt2"
    sizes = [(97, 131), (75, 140)]
    checks = export(small_config, small_weights, output, sizes=sizes)
    assert [check.size for check in checks] == sizes
    assert read_description(output)["input"]["channels"] == "RGB"
    assert list(output.parent.iterdir()) == [output]


def test_other_files_do_not_describe_themselves(tmp_path):
    with pytest.raises(ValueError, match=r"model.bin ends in neither \.onnx nor \.pt2"):
        read_description(tmp_path / "model.bin")


@pytest.mark.parametrize("short", [0, 65, 96, 800])
def test_default_sizes_are_of_the_configs_scale(small_config, short):
    cfg = small_config.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = short
    sizes = check_sizes(cfg)
    assert len(set(sizes)) == 3
    assert all(65 <= side <= 2 * (short or 480) for size in sizes for side in size)
    assert any(side % 2 for size in sizes for side in size)
