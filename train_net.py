"""Train or evaluate one config: `python train_net.py --config-file FILE [--resume | --eval-only] [KEY VALUE ...]`.

The arguments are Detectron2's usual ones; `--help` lists them.
"""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from panoptic_segformer import load_config
from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_segformer.training.output_folder import check_writable, fix_seed
from panoptic_segformer.training.trainer import PanopticTrainer


def setup(args: argparse.Namespace) -> CfgNode:
    """Return the frozen config, with output folder, logging and random seeds set up."""
    cfg = load_config(args.config_file, args.opts)
    check_writable(cfg.OUTPUT_DIR)
    fix_seed(cfg, args.resume)
    cfg.freeze()
    default_setup(cfg, args)
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
    trainer = PanopticTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
