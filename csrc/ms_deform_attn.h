// Multi-scale deformable attention: what the CPU and the CUDA kernels share.
//
// Shapes: value [B, S, M, C], spatial_shapes [L, 2] (height, width),
// sampling_locations [B, Q, M, L, P, 2] (x, y), attention_weights
// [B, Q, M, L, P] -> output [B, Q, M * C]; B images, S = sum of height * width,
// M heads, C channels of a head, Q queries, L levels, P points.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>
#include <vector>

namespace panoptic_segformer {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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
  std::vector<Level> levels;

  int64_t samples() const {  // of one query and head
    return static_cast<int64_t>(levels.size()) * points;
  }
};

// Throws with the values seen where the inputs contradict each other. Copies
// spatial_shapes to the CPU, which waits for a device that holds them.
Shape check_inputs(
    const Tensor& value,
    const Tensor& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights);

void check_grad_output(
    const Tensor& grad_output, const Tensor& value, const Shape& shape);

// Sums are kept in float, or in double where the values are double.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType compute_type(ScalarType type) {
  return type == ScalarType::Double ? type : ScalarType::Float;
}

// The two neighbours that linear interpolation reads along one axis. Reading
// needs no branch and can't leave the level whatever the coordinate: where one
// of them lies outside, both are the one inside, the second with weight 0.
template <typename C>
struct Neighbours {
  bool inside;    // whether the level is touched at all
  int64_t first;  // index of the first; the second is first + step
  int64_t step;   // 0 where only one lies inside
  C weight[2];
  C slope[2];  // derivative of the weights by the position in pixels
};

template <typename C>
C10_HOST_DEVICE inline C hat(C distance) {
  const C weight = 1 - (distance < 0 ? -distance : distance);
  return weight > 0 ? weight : 0;  // 0 for NaN too
}

template <typename C>
C10_HOST_DEVICE inline C hat_slope(C distance) {  // the right-hand one
  const C slope = distance < 0 ? 1 : -1;
  return distance >= -1 && distance < 1 ? slope : 0;
}

// coordinate: in [0, 1] from the first pixel's outer edge to the last one's.
template <typename C>
C10_HOST_DEVICE inline Neighbours<C> locate(C coordinate, int64_t size) {
  const C position = coordinate * size - C(0.5);
  const C last = size - 1;
  const C clamped = position < last ? position : last;
  Neighbours<C> result;
  result.inside = position >= -1 && position < size;
  // NaN compares false and becomes `last`.
  result.first = static_cast<int64_t>(clamped > 0 ? clamped : 0);
  result.step = position >= 0 && position < last;
  const C distance = position - result.first;
  result.weight[0] = hat(distance);
  result.slope[0] = hat_slope(distance);
  result.weight[1] = result.step ? hat(distance - 1) : 0;
  result.slope[1] = result.step ? hat_slope(distance - 1) : 0;
  return result;
}

template <typename C>
struct PointGradients {
  C x;
  C y;
  C weight;
};

// From the products of the output's gradient with the four rows that a point
// read: upper left, upper right, lower left, lower right.
template <typename C>
C10_HOST_DEVICE inline PointGradients<C> point_gradients(
    const Neighbours<C>& x,
    const Neighbours<C>& y,
    const Level& level,
    C weight,
    const C (&dots)[4]) {
  const C upper = x.weight[0] * dots[0] + x.weight[1] * dots[1];
  const C lower = x.weight[0] * dots[2] + x.weight[1] * dots[3];
  const C upper_slope = x.slope[0] * dots[0] + x.slope[1] * dots[1];
  const C lower_slope = x.slope[0] * dots[2] + x.slope[1] * dots[3];
  return {
      weight * level.width *
          (y.weight[0] * upper_slope + y.weight[1] * lower_slope),
      weight * level.height * (y.slope[0] * upper + y.slope[1] * lower),
      y.weight[0] * upper + y.weight[1] * lower};
}

}  // namespace panoptic_segformer
