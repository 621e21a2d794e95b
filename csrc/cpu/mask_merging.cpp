// CPU entry points of mask merging: tensors in, masks for the kernels out.
#include "mask_merging.h"
#include "../mask_merging.h"
#include "kernels.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

namespace panoptic_segformer {
namespace {

// About as many pixels as make a task worth a thread.
constexpr int64_t kGrain = 1 << 16;

// Where one side of the result reads a mask's side: the formula and the
// precision of torch's interpolate, with align_corners=False.
template <typename T>
class SideTable {
 public:
  SideTable(int64_t size, int64_t result_size)
      : first_(result_size),
        second_(result_size),
        first_weight_(result_size),
        second_weight_(result_size) {
    const T scale = static_cast<T>(size) / static_cast<T>(result_size);
    for (int64_t i = 0; i < result_size; ++i) {
      // Of equal sizes it is i itself.
      const T place = size == result_size
                          ? static_cast<T>(i)
                          : std::max(scale * (i + T(0.5)) - T(0.5), T(0));
      first_[i] = std::min(static_cast<int64_t>(place), size - 1);
      second_[i] = std::min<int64_t>(first_[i] + 1, size - 1);
      second_weight_[i] = std::min(place - first_[i], T(1));
      first_weight_[i] = 1 - second_weight_[i];
    }
    if (size == result_size) {
      second_ = first_;
    }
  }

  Axis<T> axis() const {
    return {
        first_.data(),
        second_.data(),
        first_weight_.data(),
        second_weight_.data()};
  }

  // The positions [begin, end) that read any of [low, high].
  std::pair<int64_t, int64_t> readers(int64_t low, int64_t high) const {
    return {
        std::lower_bound(second_.begin(), second_.end(), low) - second_.begin(),
        std::upper_bound(first_.begin(), first_.end(), high) - first_.begin()};
  }

 private:
  std::vector<int32_t> first_;
  std::vector<int32_t> second_;
  std::vector<T> first_weight_;
  std::vector<T> second_weight_;
};

// Everything that one call knows of its masks.
template <typename T>
struct MaskCall {
  MaskShape shape;
  const T* values;
  T threshold;
  SideTable<T> rows;
  SideTable<T> columns;

  MaskCall(const MaskShape& shape, const Tensor& masks, double threshold)
      : shape(shape),
        values(masks.const_data_ptr<T>()),
        threshold(static_cast<T>(threshold)),
        rows(shape.height, shape.result_height),
        columns(shape.width, shape.result_width) {}

  const T* mask(int64_t index) const {
    return values + index * shape.height * shape.width;
  }

  // The part of the result where a mask can be above the threshold: elsewhere
  // none of the four values that a pixel reads is. Their weighted mean exceeds
  // the largest by rounding at most: seven roundings of half a unit in the last
  // place. What is not a number makes its pixels so, which is above nothing.
  Box find_box(const T* mask) const {
    using Limits = std::numeric_limits<T>;
    const T margin = std::abs(threshold) * 8 * Limits::epsilon();
    const T bound = threshold - (margin + Limits::min());
    int64_t top = shape.height, bottom = -1, left = shape.width, right = -1;
    for (int64_t y = 0; y < shape.height; ++y) {
      const T* row = mask + y * shape.width;
      int64_t first = 0, last = shape.width - 1;
      while (first < shape.width && !(row[first] > bound)) {
        ++first;
      }
      if (first == shape.width) {
        continue;
      }
      while (!(row[last] > bound)) {
        --last;
      }
      top = std::min(top, y);
      bottom = y;
      left = std::min(left, first);
      right = std::max(right, last);
    }
    if (bottom < 0) {
      return {0, 0, 0, 0};
    }
    const auto [first_row, last_row] = rows.readers(top, bottom);
    const auto [first_column, last_column] = columns.readers(left, right);
    return {
        first_row,
        last_row,
        first_column / kBlock * kBlock,
        std::min(padded(last_column), shape.result_width)};
  }

  MaskPart<T> part(int64_t index, const Box& box, T* scratch) const {
    return {
        mask(index),
        shape.width,
        shape.result_width,
        rows.axis(),
        columns.axis(),
        threshold,
        box,
        scratch};
  }

  static int64_t padded(int64_t width) {
    return (width + kBlock - 1) / kBlock * kBlock;
  }
};

// Two rows of the result, see MaskPart.
template <typename T>
class WideRows {
 public:
  explicit WideRows(const MaskShape& shape)
      : memory_(2 * MaskCall<T>::padded(shape.result_width)) {
    std::fill_n(
        memory_.data(),
        2 * MaskCall<T>::padded(shape.result_width),
        std::numeric_limits<T>::quiet_NaN());
  }
  T* data() {
    return memory_.data();
  }

 private:
  Scratch<T> memory_;
};

// Calls run(T{}) for the dtypes that the checks let through.
template <typename F>
void dispatch_masks(const Tensor& masks, const F& run) {
  if (masks.scalar_type() == ScalarType::Double) {
    run(double{});
  } else {
    run(float{});
  }
}

// Calls visit(index, part) for all masks, those of one thread in one scratch.
template <typename T, typename F>
void for_each_mask(const MaskCall<T>& call, const F& visit) {
  const MaskShape& shape = call.shape;
  const int64_t pixels = shape.result_height * shape.result_width;
  const int64_t grain = std::max<int64_t>(1, kGrain / pixels);
  torch::stable::parallel_for(
      0, shape.count, grain, [&](int64_t begin, int64_t end) {
        WideRows<T> scratch(shape);
        for (int64_t i = begin; i < end; ++i) {
          const Box box = call.find_box(call.mask(i));
          visit(i, call.part(i, box, scratch.data()));
        }
      });
}

std::tuple<Tensor, Tensor> mask_statistics(
    const Tensor& masks, Sizes size, double threshold) {
  const MaskShape shape = check_masks(masks, size);
  const Tensor values = torch::stable::contiguous(masks);
  Tensor areas =
      torch::stable::new_empty(masks, {shape.count}, ScalarType::Long);
  Tensor sums = torch::stable::new_empty(masks, {shape.count});
  dispatch_masks(masks, [&](auto zero) {
    using T = decltype(zero);
    const MaskCall<T> call(shape, values, threshold);
    int64_t* area_of = areas.mutable_data_ptr<int64_t>();
    T* sum_of = sums.mutable_data_ptr<T>();
    for_each_mask(call, [&](int64_t index, const MaskPart<T>& part) {
      const MaskSum result = mask_kernels<T>().sum(part);
      area_of[index] = result.area;
      sum_of[index] = static_cast<T>(result.sum);
    });
  });
  return {areas, sums};
}

Tensor masks_above(const Tensor& masks, Sizes size, double threshold) {
  const MaskShape shape = check_masks(masks, size);
  const Tensor values = torch::stable::contiguous(masks);
  Tensor above = torch::stable::new_zeros(
      masks, {shape.count, size[0], size[1]}, ScalarType::Bool);
  dispatch_masks(masks, [&](auto zero) {
    using T = decltype(zero);
    const MaskCall<T> call(shape, values, threshold);
    auto* target = static_cast<uint8_t*>(above.mutable_data_ptr());
    for_each_mask(call, [&](int64_t index, const MaskPart<T>& part) {
      mask_kernels<T>().mark(part, target + index * size[0] * size[1]);
    });
  });
  return above;
}

// Paints one candidate if enough of it is visible; returns how much that is.
// One thread does: what the others would save, they take to wake up.
template <typename T>
int64_t paint_candidate(
    const MaskPart<T>& part,
    float limit,
    int32_t number,
    int32_t* segment_ids,
    bool& kept) {
  const MaskKernels<T>& best = mask_kernels<T>();
  const auto [area, visible] = best.count(part, segment_ids);
  const float taken = static_cast<float>(area - visible);
  kept = visible > 0 && taken / static_cast<float>(area) <= limit;
  if (kept) {
    best.paint(part, number, segment_ids);
  }
  return visible;
}

std::tuple<Tensor, Tensor, Tensor> paint_masks(
    const Tensor& masks,
    const Tensor& rows,
    const Tensor& limits,
    Sizes size,
    double threshold) {
  const MaskShape shape = check_masks(masks, size);
  check_candidates(masks, rows, limits);
  const Tensor values = torch::stable::contiguous(masks);
  const Tensor row_values = torch::stable::contiguous(rows);
  const Tensor limit_values = torch::stable::contiguous(limits);
  const int64_t count = rows.size(0);
  Tensor segment_ids =
      torch::stable::new_zeros(masks, {size[0], size[1]}, ScalarType::Int);
  Tensor kept = torch::stable::new_empty(masks, {count}, ScalarType::Bool);
  Tensor areas = torch::stable::new_empty(masks, {count}, ScalarType::Long);
  const auto* row_of = row_values.const_data_ptr<int64_t>();
  for (int64_t k = 0; k < count; ++k) {
    STD_TORCH_CHECK(
        row_of[k] >= 0 && row_of[k] < shape.count,
        "rows must be at least 0 and below the number of masks, ",
        shape.count,
        ", got ",
        row_of[k]);
  }
  dispatch_masks(masks, [&](auto zero) {
    using T = decltype(zero);
    const MaskCall<T> call(shape, values, threshold);
    const auto* limit_of = limit_values.const_data_ptr<float>();
    auto* ids = segment_ids.mutable_data_ptr<int32_t>();
    auto* keep = kept.mutable_data_ptr<bool>();
    auto* area_of = areas.mutable_data_ptr<int64_t>();
    WideRows<T> scratch(shape);
    int32_t number = 1;
    for (int64_t k = 0; k < count; ++k) {
      const Box box = call.find_box(call.mask(row_of[k]));
      const MaskPart<T> part = call.part(row_of[k], box, scratch.data());
      area_of[k] = paint_candidate(part, limit_of[k], number, ids, keep[k]);
      number += keep[k];
    }
  });
  return {segment_ids, kept, areas};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(panoptic_segformer, CPU, m) {
  m.impl("mask_statistics", TORCH_BOX(&mask_statistics));
  m.impl("masks_above", TORCH_BOX(&masks_above));
  m.impl("paint_masks", TORCH_BOX(&paint_masks));
}

}  // namespace panoptic_segformer
