// Operator schemas and input checks of mask merging.
#include "mask_merging.h"

#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>

namespace panoptic_segformer {

MaskShape check_masks(const Tensor& masks, const Sizes& size) {
  const Sizes sizes = sizes_of(masks);
  STD_TORCH_CHECK(
      sizes.size() == 3 && sizes[1] >= 1 && sizes[2] >= 1 &&
          sizes[1] <= kMaxSide && sizes[2] <= kMaxSide,
      "masks must be [masks, height, width] with sides of at least 1 and at "
      "most ",
      kMaxSide,
      ", got shape ",
      show(sizes));
  const ScalarType type = masks.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::Double,
      "masks must be float32 or float64, got ",
      type);
  STD_TORCH_CHECK(
      size.size() == 2 && size[0] >= 1 && size[1] >= 1 && size[0] <= kMaxSide &&
          size[1] <= kMaxSide,
      "size must be (height, width) of at least 1 and at most ",
      kMaxSide,
      ", got ",
      show(size));
  return {sizes[0], sizes[1], sizes[2], size[0], size[1]};
}

void check_candidates(
    const Tensor& masks, const Tensor& rows, const Tensor& limits) {
  STD_TORCH_CHECK(
      rows.dim() == 1 && rows.scalar_type() == ScalarType::Long &&
          sizes_of(limits) == sizes_of(rows) &&
          limits.scalar_type() == ScalarType::Float,
      "rows must be int64 [candidates] and limits float32 of the same length, "
      "got ",
      rows.scalar_type(),
      " ",
      show(sizes_of(rows)),
      " and ",
      limits.scalar_type(),
      " ",
      show(sizes_of(limits)));
  STD_TORCH_CHECK(
      rows.device() == masks.device() && limits.device() == masks.device(),
      "masks, rows and limits must be on one device");
}

STABLE_TORCH_LIBRARY_FRAGMENT(panoptic_segformer, m) {
  m.def(
      "mask_statistics(Tensor masks, SymInt[] size, float threshold) "
      "-> (Tensor, Tensor)");
  m.def("masks_above(Tensor masks, SymInt[] size, float threshold) -> Tensor");
  m.def(
      "paint_masks(Tensor masks, Tensor rows, Tensor limits, SymInt[] size, "
      "float threshold) -> (Tensor, Tensor, Tensor)");
}

}  // namespace panoptic_segformer
