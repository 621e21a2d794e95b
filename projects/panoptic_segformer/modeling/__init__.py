"""The network of Panoptic SegFormer, one file per step of the data flow."""
