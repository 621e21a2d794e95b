// The CPU kernels of mask merging as the operators see them.
#pragma once

#include <cstdint>

namespace panoptic_segformer {

// Columns are counted in blocks of so many: what the kernels handle at a time.
constexpr int64_t kBlock = 32;

// What each position along one side of the result reads of a mask's side.
template <typename T>
struct Axis {
  const int32_t* first;
  const int32_t* second;
  const T* first_weight;
  const T* second_weight;
};

// Part of the result: rows [top, bottom), columns [left, right); left is a
// block's border, and right is one or the result's own.
struct Box {
  int64_t top;
  int64_t bottom;
  int64_t left;
  int64_t right;
};

// One mask and the part of the result to compute.
template <typename T>
struct MaskPart {
  const T* values;  // [h, w]
  int64_t width;
  int64_t result_width;
  Axis<T> rows;
  Axis<T> columns;
  T threshold;
  Box box;
  // Two rows of the result's width, rounded up to whole blocks; not a number
  // past the width, which is above no threshold.
  T* scratch;
};

// Pixels above the threshold and the sum of their values.
struct MaskSum {
  int64_t area;
  double sum;
};

// Pixels above the threshold, and those of them that are still free.
struct MaskAreas {
  int64_t area;
  int64_t visible;
};

template <typename T>
struct MaskKernels {
  MaskSum (*sum)(const MaskPart<T>& part);
  // Writes the box of [H0, W0]: 1 above the threshold, else 0.
  void (*mark)(const MaskPart<T>& part, uint8_t* above);
  MaskAreas (*count)(const MaskPart<T>& part, const int32_t* segment_ids);
  // Writes the number where the mask is above the threshold and the id 0.
  void (*paint)(const MaskPart<T>& part, int32_t number, int32_t* segment_ids);
};

// The kernels for the best instruction set of this processor.
template <typename T>
const MaskKernels<T>& mask_kernels();

}  // namespace panoptic_segformer
