// Multi-scale deformable attention: what the CPU and the CUDA kernels share.
//
// Two forms of one operator, [B, S, M, C] -> [B, Q, M * C]. B images, S = sum
// of height * width over L levels, M heads, C channels of a head, Q queries, P
// points per level.
//
// Plain: sampling_locations [B, Q, M, L, P, 2] (x, y) and attention_weights
// [B, Q, M, L, P]. Fused: both are computed inside, from reference_points
// [B, Q, L, 2] (x, y) or [B, Q, L, 4] (centre, size), sampling_offsets
// [B, Q, M, L, P, 2] and attention_logits [B, Q, M, L, P].
#pragma once

#include "tensors.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

namespace panoptic_segformer {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

struct Level {
  int64_t height;
  int64_t width;
  int64_t start;  // of its first position in [0, S)
};

struct Shape {
  int64_t batch;
  int64_t length;
  int64_t heads;
  int64_t channels;
  int64_t queries;
  int64_t points;
  int64_t reference_dim;  // fused form: 2 (points) or 4 (boxes); else 0
  std::vector<Level> levels;

  int64_t samples() const {  // of one query and head
    return static_cast<int64_t>(levels.size()) * points;
  }
};

// Both throw with the values seen where the inputs contradict each other.
// spatial_shapes: height and width of each level, one after the other.
Shape check_inputs(
    const Tensor& value,
    const Sizes& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights);

Shape check_fused_inputs(
    const Tensor& value,
    const Sizes& spatial_shapes,
    const Tensor& reference_points,
    const Tensor& sampling_offsets,
    const Tensor& attention_logits);

void check_grad_output(
    const Tensor& grad_output, const Tensor& value, const Shape& shape);

// Sums are kept in float, or in double where the values are double.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType compute_type(ScalarType type) {
  return type == ScalarType::Double ? type : ScalarType::Float;
}

template <typename T, typename L>
struct Types {
  using Value = T;
  using Location = L;  // of locations and weights, offsets and logits
};

// Calls run(Types<T, L>{}) for the dtypes that the checks let through.
template <typename F>
auto dispatch_types(ScalarType value, ScalarType location, const F& run) {
  const bool mixed = value != location;
  switch (value) {
    case ScalarType::Double:
      return run(Types<double, double>{});
    case ScalarType::Half:
      return mixed ? run(Types<Half, float>{}) : run(Types<Half, Half>{});
    case ScalarType::BFloat16:
      return mixed ? run(Types<BFloat16, float>{})
                   : run(Types<BFloat16, BFloat16>{});
    default:
      return run(Types<float, float>{});
  }
}

}  // namespace panoptic_segformer
