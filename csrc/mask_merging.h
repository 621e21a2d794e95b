// Masks at the size of the result, without storing them there.
//
// Masks [n, h, w] are brought to size (H0, W0) by bilinear interpolation, with
// the numbers of torch's interpolate(align_corners=False). Three operators tell
// of the pixels above a threshold: how many and how much there is (statistics),
// where they are (above), and which stay visible when the masks are painted one
// after the other (paint).
#pragma once

#include "tensors.h"

namespace panoptic_segformer {

struct MaskShape {
  int64_t count;
  int64_t height;
  int64_t width;
  int64_t result_height;
  int64_t result_width;
};

// Both throw with the values seen where the inputs contradict each other.
MaskShape check_masks(const Tensor& masks, const Sizes& size);

void check_candidates(
    const Tensor& masks, const Tensor& rows, const Tensor& limits);

}  // namespace panoptic_segformer
