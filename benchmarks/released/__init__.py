"""The released arrangement of the work, re-implemented from its description; not the released program.

The authors' code computes the same function as ours. It differs in what it computes, in which order, and in what it
keeps. Here one of our models does the work in that way, so that time and memory of both can be compared in one
process, on the same weights and inputs. Where the description leaves the way open, the faster one is taken, but for
deformable attention, which is the form that everybody copies.

- Backbone: frozen norms are layers of their own, channels come first in memory. They are Detectron2's, which keep no
  input for the backward pass as the released ones do: training takes less memory here than there.
- Encoder: every step takes all tokens at once.
- Deformable attention: offsets, softmax and locations as tensors, one grid_sample per level, the samples of all
  levels stacked and weighted. It is the released code's path on a CPU; on a GPU it has a kernel for this, so only
  what lies outside deformable attention can be compared there.
- Location decoder: classes and boxes of all layers in inference too.
- Mask decoders: the attention logits of every layer become the masks of all its queries, in inference too; 8 channels
  per level are upsampled.
- Training: masks of all stuff classes; heads whose losses count nothing (quirk Q13) run.
- Merging: all masks in float at the size of the result at once, then painted one after the other.
"""

from __future__ import annotations

from .model import as_released

__all__ = ["as_released"]
