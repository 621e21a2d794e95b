"""Write exported programs to files, and run the files.

Shape legend: H, W size of a picture.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..optional import import_optional
from .description import DESCRIPTION
from .network import INPUT_NAME, OUTPUT_NAMES, Outputs

__all__ = ["FORMATS", "Format", "open_onnx", "open_torch", "read_description", "write_onnx", "write_torch"]

EXTRA = "export"
# The newest that torch's exporter gives and ONNX Runtime 1.31 runs.
OPSET = 20

Run = Callable[[Tensor], Outputs]


def write_torch(program: ExportedProgram, description: dict[str, Any], path: Path) -> None:
    """Write a .pt2."""
    torch.export.save(program, path, extra_files={DESCRIPTION: json.dumps(description)})


def open_torch(path: Path) -> Run:
    """Return what runs a .pt2 on an image (3, H, W) uint8."""
    module = torch.export.load(path).module()

    def run(image: Tensor) -> Outputs:
        with torch.no_grad():
            return dict(zip(OUTPUT_NAMES, module(image), strict=True))

    return run


def write_onnx(program: ExportedProgram, description: dict[str, Any], path: Path) -> None:
    """Write an ONNX file, weights included.

    Raises: ImportError: if onnx or onnxscript can't be imported (says which extra to install).
    """
    for module in ("onnx", "onnxscript"):
        import_optional(module, EXTRA)
    with _quiet():
        exported = torch.onnx.export(
            program,
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        exported.model.metadata_props[DESCRIPTION] = json.dumps(description)
        exported.save(path, external_data=False)


def open_onnx(path: Path) -> Run:
    """Return what runs an ONNX file on an image (3, H, W) uint8, with as many threads as torch has.

    Raises: ImportError: if onnxruntime can't be imported (says which extra to install).
    """
    session = _session(path)

    def run(image: Tensor) -> Outputs:
        arrays = session.run(list(OUTPUT_NAMES), {INPUT_NAME: np.ascontiguousarray(image.numpy())})
        return {name: torch.from_numpy(array) for name, array in zip(OUTPUT_NAMES, arrays, strict=True)}

    return run


def _session(path: Path) -> Any:
    onnxruntime = import_optional("onnxruntime", EXTRA)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


def read_description(path: Path) -> dict[str, Any]:
    """Return what a file says of itself.

    Raises: ValueError: if it says nothing, or has another ending than those of FORMATS.
    """
    if path.suffix == FORMATS["onnx"].suffix:
        text = _session(path).get_modelmeta().custom_metadata_map.get(DESCRIPTION)
    elif path.suffix == FORMATS["torch"].suffix:
        extra = {DESCRIPTION: ""}
        torch.export.load(path, extra_files=extra)
        text = extra[DESCRIPTION]
    else:
        raise ValueError(f"{path} ends in neither .onnx nor .pt2: give a file that panseg export wrote")
    if not text:
        raise ValueError(f"{path} does not describe itself: give a file that panseg export wrote")
    return json.loads(text)


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        suffix: of its name.
        write: takes the program, its description and the path.
        open: gives what runs the file.
        modules: of the extra, that it needs.
    """

    suffix: str
    write: Callable[[ExportedProgram, dict[str, Any], Path], None]
    open: Callable[[Path], Run]
    modules: tuple[str, ...] = ()


# By the name that the command line has for it.
FORMATS = {
    "onnx": Format(".onnx", write_onnx, open_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch": Format(".pt2", write_torch, open_torch),
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporter tells of its steps from the terminal; errors are raised all the same."""
    exporters = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in exporters]
    for logger in exporters:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(exporters, levels, strict=True):
            logger.setLevel(level)
