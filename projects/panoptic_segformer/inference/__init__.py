"""From queries and masks to results in Detectron2's formats."""
