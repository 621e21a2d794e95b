"""Break trainings on purpose, and count what is lost.

`python benchmarks/chaos [--kills N] [--signals N] [--only NAME ...]`

Every row is a kind of fault on a small model with all parts (CPU): how often it was tried, what shall happen, and how
often it did. Trainings are compared with one that nothing happened to, to the last bit. Exit code 1 if anything is
lost.
"""

from __future__ import annotations

import argparse
import logging
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import interruptions
import malice
import numbers_of_steps
import pictures
import storage
import torch
from tabulate import tabulate
from trainings import FINAL, Row, config, prepare, run, train


def main() -> int:
    """Print the table and return the exit code."""
    arguments = _parse_arguments()
    logging.getLogger("panoptic_segformer").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, CPU")
    rows, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        folder = Path(name)
        scenes = folder / "scenes"
        prepare(scenes)
        for number, experiment in enumerate(_experiments(arguments, folder, scenes)):
            own = folder / f"experiment_{number}"
            own.mkdir()
            found = experiment(own)
            for row in found if isinstance(found, list) else [found]:
                rows.append(row)
                print(f"{time.perf_counter() - started:6.0f} s  {row.fault}: {row.tried} tried, {len(row.losses)} lost")
                for loss in row.losses:
                    print(f"          lost: {loss}", flush=True)
    table = [[row.fault, row.tried, row.expected, row.tried - len(row.losses)] for row in rows]
    print("\n" + tabulate(table, ["fault", "tried", "what shall happen", "did"], tablefmt="pipe"))
    return int(any(row.losses for row in rows))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, metavar="N", help="default: %(default)s")
    parser.add_argument("--signals", type=int, default=9, metavar="N", help="default: %(default)s")
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    return parser.parse_args()


# Takes a folder of its own.
Experiment = Callable[[Path], Row | list[Row]]
NAMES = ("kill", "stop", "loader", "disk", "final", "damage", "writable", "pictures", "numbers", "malice")


def _experiments(arguments: argparse.Namespace, folder: Path, scenes: Path) -> Iterator[Experiment]:
    """Yield what is asked for; those that compare come with the training that nothing happened to."""
    wanted = [name for name in NAMES if name in arguments.only]
    expected: dict[str, object] = {}
    seconds = 0.0
    if set(wanted) & set(NAMES[:6]):
        started = time.perf_counter()
        ended = run(lambda: train(config(folder / "whole")), folder / "log.txt")
        seconds = time.perf_counter() - started
        if ended.code:
            raise RuntimeError(f"the training without faults failed:\n{ended.text[-3000:]}")
        expected = torch.load(folder / "whole" / FINAL, weights_only=True)
        print(f"a training without faults takes {seconds:.1f} s")
    experiments: dict[str, Experiment] = {
        "kill": lambda own: interruptions.kill_often(own, arguments.kills, expected, seconds),
        "stop": lambda own: interruptions.ask_to_stop(own, arguments.signals, expected, seconds),
        "loader": lambda own: interruptions.kill_loader(own, expected),
        "disk": lambda own: storage.fill_disk(own, expected),
        "final": lambda own: storage.fill_disk_at_the_end(own, expected),
        "damage": lambda own: storage.damage_checkpoints(own, expected),
        "writable": storage.forbid_writing,
        "pictures": lambda own: pictures.break_pictures(own, scenes),
        "numbers": numbers_of_steps.spoil_weights,
        "malice": malice.load_traps,
    }
    return (experiments[name] for name in wanted)


if __name__ == "__main__":
    raise SystemExit(main())
