from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from PIL import Image

import panoptic_segformer
from panoptic_segformer import PanopticPredictor, PanopticResult, load_config
from panoptic_segformer.architectures import ARCHITECTURES
from panoptic_segformer.data.synthetic import write_scenes
from panoptic_segformer.inference.loading import configured, load_predictor, panoptic_only
from tiny import tiny_overrides

# Segments even of a model that has learned nothing.
MERGING = "MODEL.PANOPTIC_SEGFORMER.MERGING"
TOLERANT = [
    *(f"{MERGING}.SCORE_THRESHOLD", "0.0"),
    *(f"{MERGING}.THING_OVERLAP_THRESHOLD", "0.99"),
    *(f"{MERGING}.STUFF_OVERLAP_THRESHOLD", "0.99"),
    *("MODEL.TIMM.WEIGHTS", ""),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Pictures of three sizes."""
    folder = tmp_path_factory.mktemp("scenes")
    for number, size in enumerate([(96, 128), (128, 96), (96, 128)]):
        write_scenes(folder / str(number), 1, seed=number, size=size)
    small = folder / "small.png"
    Image.open(folder / "2/images/000001.jpg").resize((64, 48)).save(small)
    return [*(folder / f"{number}/images/000001.jpg" for number in range(3)), small]


@pytest.fixture
def tiny(tiny_config, tmp_path):
    """Config of a tiny model, and its weights."""
    cfg = tiny_config(*TOLERANT)
    torch.manual_seed(0)
    from detectron2.modeling import build_model

    model = build_model(cfg)
    # Random masks are small: lifted to the threshold, some segments come out.
    for name, parameter in model.named_parameters():
        if name.endswith("fuse.bias"):
            parameter.data.fill_(0.5)
    torch.save({"model": model.state_dict()}, tmp_path / "tiny.pth")
    return cfg, tmp_path / "tiny.pth"


def test_predictor_is_public():
    assert panoptic_segformer.PanopticPredictor is PanopticPredictor
    assert {"PanopticPredictor", "PanopticResult"} <= set(panoptic_segformer.__all__)


def test_predictor_gives_what_default_predictor_gives(tiny, scenes):
    cfg, weights = tiny
    expected_of = DefaultPredictor(configured(cfg, ["MODEL.WEIGHTS", str(weights)]))
    predictor = PanopticPredictor(cfg, weights)
    numbers = set()
    for file in scenes:
        ids, records = expected_of(np.asarray(Image.open(file))[..., ::-1])["panoptic_seg"]
        result = predictor(file)
        assert isinstance(result, PanopticResult)
        assert np.array_equal(result.segment_ids, ids.numpy())
        assert result.segments_info == records
        numbers.add(len(records))
    assert max(numbers) > 1, "there is something to compare"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_predictor_on_a_gpu_gives_what_default_predictor_gives(tiny, scenes):
    cfg, weights = tiny
    overrides = ["MODEL.WEIGHTS", str(weights), "MODEL.DEVICE", "cuda"]
    ids, records = DefaultPredictor(configured(cfg, overrides))(np.asarray(Image.open(scenes[0]))[..., ::-1])[
        "panoptic_seg"
    ]
    result = PanopticPredictor(cfg, weights, device="cuda")(scenes[0])
    assert (result.segment_ids == ids.cpu().numpy()).mean() > 0.999
    assert [segment["category_id"] for segment in result.segments_info] == [record["category_id"] for record in records]


@pytest.mark.slow
def test_predictor_of_every_architecture_gives_what_default_predictor_gives(
    config_dir, scenes_root, monkeypatch, tmp_path
):
    from detectron2.modeling import build_model

    from tiny import forget_scenes

    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))
    configs = sorted((config_dir / "synthetic").glob("*_lite0.yaml"))
    names, found = set(), 0
    opts = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "96", "MODEL.TIMM.WEIGHTS", ""]
    for config in configs:
        cfg = load_config(config, opts)
        names.add(cfg.MODEL.META_ARCHITECTURE)
        torch.manual_seed(1)
        torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "fresh.pth")
        predictor = PanopticPredictor(config, tmp_path / "fresh.pth", device="cpu", opts=opts)
        picture = np.asarray(Image.open(scenes_root / "synthetic_scenes/val/images/000001.jpg"))
        expected = load_predictor(panoptic_only(configured(cfg, ["MODEL.WEIGHTS", str(tmp_path / "fresh.pth")])))
        ids, records = expected(picture[..., ::-1])["panoptic_seg"]
        result = predictor(picture)
        assert np.array_equal(result.segment_ids, ids.numpy()), config
        assert result.segments_info == [{key: record[key] for key in result.segments_info[0]} for record in records]
        found += len(records)
    forget_scenes()
    assert names == set(ARCHITECTURES)
    assert found > 0


def test_predictor_lists_in_lists_out_in_their_order(tiny, scenes):
    predictor = PanopticPredictor(*tiny)
    alone = [predictor(file) for file in scenes]
    for together in (predictor(scenes), predictor(tuple(scenes))):
        assert isinstance(together, list)
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one.segment_ids, other.segment_ids)
            assert one.segments_info == other.segments_info
    assert predictor([]) == []


# The first, third and last picture have one size in the network.
@pytest.mark.parametrize(("batch_size", "groups"), [(2, [1, 1, 2]), (3, [2, 1, 1]), (8, [3, 1])])
def test_predictor_runs_pictures_of_one_size_together(tiny, scenes, batch_size, groups):
    alone = PanopticPredictor(*tiny)(scenes)
    predictor = PanopticPredictor(*tiny, batch_size=batch_size)
    sizes = []
    predictor.model.register_forward_pre_hook(
        lambda model, inputs: sizes.append([tuple(entry["image"].shape[1:]) for entry in inputs[0]])
    )
    together = predictor(scenes)
    assert [len(batch) for batch in sizes] == groups
    assert all(len(set(batch)) == 1 for batch in sizes)
    for one, other in zip(alone, together, strict=True):
        assert (one.segment_ids == other.segment_ids).mean() > 0.99
        assert [s.category_id for s in one.segments] == [s.category_id for s in other.segments]
        assert [s.score for s in one.segments] == pytest.approx([s.score for s in other.segments], abs=1e-4)


def test_predictor_takes_paths_pictures_and_arrays_alike(tiny, scenes):
    predictor = PanopticPredictor(*tiny)
    picture = Image.open(scenes[0])
    forms = [scenes[0], str(scenes[0]), picture, np.asarray(picture)]
    maps = [result.segment_ids for result in predictor(forms)]
    assert all(np.array_equal(maps[0], other) for other in maps[1:])


def test_predictor_turns_pil_images_as_exif_says(tiny):
    picture = Image.new("RGB", (40, 30))
    picture.getexif()[0x0112] = 6
    assert PanopticPredictor(*tiny)(picture).image.shape == (40, 30, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_predictor_takes_any_kind_of_pil_image(tiny, mode):
    result = PanopticPredictor(*tiny)(Image.new("RGB", (40, 30), (9, 8, 7)).convert(mode))
    assert result.image.shape == (30, 40, 3)
    assert result.segment_ids.shape == (30, 40)


def test_predictor_single_pixel(tiny):
    result = PanopticPredictor(*tiny)(np.zeros((1, 1, 3), np.uint8))
    assert result.segment_ids.shape == (1, 1)


@pytest.mark.parametrize("size", [(1, 9000), (9000, 2)])
def test_predictor_picture_that_shrinks_to_nothing(tiny, size):
    with pytest.raises(ValueError, match=rf"\(height, width\) \({size[0]}, {size[1]}\): it is so thin.*MAX_SIZE_TEST"):
        PanopticPredictor(*tiny)(np.zeros((*size, 3), np.uint8))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 5), np.uint8), r"uint8 of shape \(4, 5\): pass uint8 of shape \(H, W, 3\)"),
        (np.zeros((4, 5, 3)), "float64"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (7, "not int"),
        (None, "not NoneType"),
        (torch.zeros(3, 4, 5), "not Tensor"),
    ],
)
def test_predictor_wrong_picture_names_what_was_seen(tiny, picture, message):
    with pytest.raises(ValueError, match=message):
        PanopticPredictor(*tiny)(picture)


def test_predictor_missing_and_broken_files(tiny, tmp_path):
    predictor = PanopticPredictor(*tiny)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(FileNotFoundError, match="absent"):
        predictor(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="text.png cannot be read"):
        predictor(tmp_path / "text.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:1500])
    with (
        pytest.raises(ValueError, match="the PIL image cannot be read .*truncated"),
        Image.open(tmp_path / "half.png") as half,
    ):
        predictor(half)


def test_predictor_knows_classes_and_datasets(tiny):
    predictor = PanopticPredictor(*tiny)
    assert predictor.categories.thing_names[:2] == ("ball", "ring")
    assert predictor.datasets == ("synthetic_val",)


def test_predictor_without_weights_takes_the_configs(tiny):
    cfg, weights = tiny
    PanopticPredictor(configured(cfg, ["MODEL.WEIGHTS", str(weights)]))
    with pytest.raises(FileNotFoundError, match="weights '' do not exist"):
        PanopticPredictor(cfg)


def test_predictor_leaves_the_config_alone(tiny):
    cfg, weights = tiny
    before = cfg.dump()
    cfg.freeze()
    PanopticPredictor(cfg, weights, opts=["INPUT.MIN_SIZE_TEST", "64"])
    assert cfg.dump() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"device": "gpu"}, "MODEL.DEVICE is 'gpu'"),
        ({"opts": ["NO.SUCH_KEY", "1"]}, "NO.SUCH_KEY"),
        ({"opts": ["INPUT.MIN_SIZE_TEST"]}, "INPUT.MIN_SIZE_TEST"),
    ],
)
def test_predictor_wrong_arguments(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        PanopticPredictor(*tiny, **options)


def test_predictor_names_the_json_that_classes_come_from(config_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    torch.save({"model": {}}, tmp_path / "weights.pth")
    config = config_dir / "synthetic/panoptic_segformer_lite0.yaml"
    with pytest.raises(FileNotFoundError, match=r"panoptic\.json does not exist.*DETECTRON2_DATASETS"):
        PanopticPredictor(config, tmp_path / "weights.pth", device="cpu", opts=tiny_overrides(tmp_path))


def test_panoptic_only_switches_off_what_is_made_at_the_pictures_size():
    from detectron2.config import get_cfg

    for name, node in (("PanopticSegFormer", "PANOPTIC_SEGFORMER"), ("PSFMaskFormer", "MASK_FORMER")):
        cfg = get_cfg()
        ARCHITECTURES[name].add_config(cfg)
        test = cfg.MODEL[node].TEST
        test.PANOPTIC_ON, test.INSTANCE_ON, test.SEMANTIC_ON = False, True, True
        own = panoptic_only(cfg).MODEL[node].TEST
        assert (own.PANOPTIC_ON, own.INSTANCE_ON, own.SEMANTIC_ON) == (True, False, False)
        assert (test.PANOPTIC_ON, test.INSTANCE_ON, test.SEMANTIC_ON) == (False, True, True)


def test_panoptic_only_leaves_models_without_switches_alone():
    from detectron2.config import get_cfg

    cfg = get_cfg()
    ARCHITECTURES["PSFPanopticFPN"].add_config(cfg)
    assert panoptic_only(cfg) == cfg
