"""Train or evaluate one config: `python train_net.py --config-file FILE [--resume | --eval-only] [KEY VALUE ...]`.

The arguments are Detectron2's usual ones; `--help` lists them. Several processes are started by --num-gpus and
--num-machines, or by torchrun: docs/scaling.md.
"""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from panoptic_segformer import load_config
from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_segformer.training.determinism import set_determinism
from panoptic_segformer.training.launching import launch
from panoptic_segformer.training.output_folder import check_writable, fix_seed
from panoptic_segformer.training.run_record import write_run_record
from panoptic_segformer.training.trainer import PanopticTrainer


def setup(args: argparse.Namespace) -> CfgNode:
    """Return the frozen config, with output folder, logging and random seeds set up."""
    cfg = load_config(args.config_file, args.opts)
    check_writable(cfg.OUTPUT_DIR)
    fix_seed(cfg, args.resume)
    cfg.freeze()
    default_setup(cfg, args)
    set_determinism(cfg)
    return cfg


def main(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train, or evaluate with --eval-only; return the results of the last evaluation."""
    cfg = setup(args)
    if args.eval_only:
        model = PanopticTrainer.build_model(cfg)
        PanopticCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = PanopticTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    write_run_record(cfg, cfg.OUTPUT_DIR, args.resume)
    trainer = PanopticTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    launch(main, default_argument_parser().parse_args())
