"""How long a model takes and how much memory, stage by stage, in inference and in training.

`inference` and `training` time a model, `memory` measures peaks, `report` is what `panseg benchmark` prints. Nothing is
imported here: memory of the operator alone is measured without Detectron2.
"""
