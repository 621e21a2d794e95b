"""Time exported files beside the model that they were made of, and count what int8 costs in quality.

`python benchmarks/export.py --config-file YAML --weights FILE --files model.onnx model.pt2 ...`
`[--size HEIGHT WIDTH] [--threads N] [--runs N] [--int8] [--quality]`

The files are what `panseg export` wrote. All contenders take the same picture to the same candidates, in one process
and in turns; merging, which all share, is left out. --int8 adds each .onnx with matrix products in int8 (ONNX Runtime's
dynamic quantization). --quality counts panoptic quality of all contenders on the dataset of
DATASETS.TEST.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from onnxruntime.quantization import QuantType, quantize_dynamic
from tabulate import tabulate
from timing import make_clock, take_turns
from torch import Tensor

from panoptic_segformer import load_config
from panoptic_segformer.data.reading import read_picture
from panoptic_segformer.evaluation.panoptic import PanopticQualityEvaluator
from panoptic_segformer.evaluation.truth import PanopticTruth
from panoptic_segformer.export.checking import scene_image
from panoptic_segformer.export.files import FORMATS
from panoptic_segformer.export.network import ExportableNetwork, Outputs
from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.inference.loading import load_predictor, panoptic_only
from panoptic_segformer.meta_arch import PanopticSegFormer
from panoptic_segformer.profiling.machine import device_name

Run = Callable[[Tensor], Outputs]


def main() -> None:
    """Print all tables."""
    arguments = _parse_arguments()
    torch.set_num_threads(arguments.threads)
    words = [*arguments.opts, "MODEL.WEIGHTS", arguments.weights, "MODEL.DEVICE", "cpu"]
    cfg = panoptic_only(load_config(arguments.config_file, words))
    model = load_predictor(cfg).model
    facts = {
        "device": f"{device_name('cpu')}, {arguments.threads} threads",
        "torch": torch.__version__,
        "ONNX Runtime": onnxruntime.__version__,
        "runs": f"{arguments.runs} after one warm-up",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    print("\n".join(f"- {name}: {fact}" for name, fact in facts.items()))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        contenders = _open_all(model, arguments.files, Path(folder) if arguments.int8 else None)
        for size in arguments.size or [(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]:
            _print_times(contenders, scene_image(tuple(size), cfg.INPUT.FORMAT), arguments.threads, arguments.runs)
        if arguments.quality:
            _print_qualities(contenders, model, cfg)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    parser.add_argument("--files", nargs="+", required=True, type=Path, metavar="FILE", help=".onnx and .pt2")
    parser.add_argument("--size", type=int, nargs=2, action="append", metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=9, metavar="N", help="default: %(default)s")
    parser.add_argument("--int8", action="store_true", help="also each .onnx in int8")
    parser.add_argument("--quality", action="store_true", help="also panoptic quality")
    return parser.parse_args()


def _open_all(model: PanopticSegFormer, files: list[Path], folder: Path | None) -> dict[str, Run]:
    """Return what runs each contender; with a folder, also each .onnx in int8, written there."""
    if folder:
        for file in [file for file in files if file.suffix == ".onnx"]:
            copy = folder / f"{file.stem}.int8.onnx"
            quantize_dynamic(file, copy, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
            files = [*files, copy]
    openers = {form.suffix: form.open for form in FORMATS.values()}
    contenders: dict[str, Run] = {"model": ExportableNetwork(model).outputs}
    for file in files:
        contenders[f"{file.name} ({file.stat().st_size / 1e6:.1f} MB)"] = openers[file.suffix](file)
    return contenders


def _print_times(contenders: dict[str, Run], image: Tensor, threads: int, runs: int) -> None:
    """Print medians on the wall clock and on the processor's."""
    calls = {name: lambda run=run: run(image) for name, run in contenders.items()}
    times = take_turns(calls, make_clock("cpu"), [threads], runs)
    rows = []
    for name in contenders:
        wall, cpu = (1000 * statistics.median(times[name, threads][kind]) for kind in ("wall", "cpu"))
        first = 1000 * statistics.median(times["model", threads]["cpu"])
        rows.append([name, f"{wall:.1f}", f"{cpu:.1f}", f"{cpu / first:.2f}"])
    headers = ["", "median ms (wall)", "median ms (CPU)", "CPU time / model's"]
    height, width = image.shape[-2:]
    print(f"\n### {height}x{width} (height x width)\n\n{tabulate(rows, headers, 'pipe', disable_numparse=True)}")


def _print_qualities(contenders: dict[str, Run], model: PanopticSegFormer, cfg: CfgNode) -> None:
    """Print panoptic quality on the test set."""
    name = cfg.DATASETS.TEST[0]
    rows = []
    for contender, run in contenders.items():
        evaluator = PanopticQualityEvaluator(PanopticTruth.of_dataset(name))
        evaluator.reset()
        for record in DatasetCatalog.get(name):
            evaluator.process([record], [_predict(run, model, record, cfg)])
        results = evaluator.evaluate()["panoptic_seg"]
        rows.append([contender, *(f"{results[key]:.2f}" for key in ("PQ", "PQ_th", "PQ_st"))])
    headers = [name, "PQ", "things", "stuff"]
    print(f"\n### quality\n\n{tabulate(rows, headers, 'pipe', disable_numparse=True)}")


def _predict(run: Run, model: PanopticSegFormer, record: dict[str, object], cfg: CfgNode) -> dict[str, object]:
    """Return the result of a picture of the dataset at its own size."""
    picture = read_picture(record["file_name"], cfg.INPUT.FORMAT)
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST).get_transform(picture)
    image = torch.from_numpy(resize.apply_image(picture).transpose(2, 0, 1).copy())
    return model.merge(Candidates(**run(image)), picture.shape[:2])


if __name__ == "__main__":
    main()
