// Where samples lie and what they weigh, in the plain and in the fused form.
#pragma once

#include "device.cuh"

namespace panoptic_segformer {

// The samples as they come in: locations and weights, or in the fused form
// offsets, logits and reference points. C is the type of the sums.
template <typename C, typename L>
struct Samples {
  const L* places;     // [B, Q, M, L, P, 2]
  const L* scores;     // [B, Q, M, L, P]
  const C* reference;  // [B, Q, L, 2 | 4], null in the plain form
};

// A sample lies between its anchor, the pixel to the upper left, and the pixels
// right of and below that one. Anchors begin at -1: three of the four pixels
// may lie outside the level, or with `touches` unset all of them.
template <typename C>
struct Point {
  bool touches;
  int column;  // of the anchor
  int row;
  C x;  // from the anchor, in [0, 1)
  C y;
};

template <typename C>
__device__ inline Point<C> split(C x, C y, const DeviceLevel& level) {
  // False for NaN too. Only where it holds do the positions fit an int.
  if (!(x >= -1 && x < level.width && y >= -1 && y < level.height)) {
    return {};
  }
  const C left = floor(x), top = floor(y);
  return {true, int(left), int(top), x - left, y - top};
}

template <typename C, typename L>
__device__ inline Point<C> find_point(
    const DeviceShape& shape,
    const Samples<C, L>& samples,
    int64_t query,  // image * queries + query
    int64_t sample,
    int level_index) {
  const DeviceLevel& level = shape.levels[level_index];
  const Pack<L, 2> place = load<2>(samples.places + 2 * sample);
  C x = C(place.items[0]), y = C(place.items[1]);
  if (shape.reference_dim == 0) {
    x *= level.width;
    y *= level.height;
  } else {
    const C* reference =
        samples.reference +
        (query * shape.num_levels + level_index) * shape.reference_dim;
    if (shape.reference_dim == 2) {
      x += reference[0] * level.width;
      y += reference[1] * level.height;
    } else {
      const C share = C(0.5) / shape.points;
      x = (reference[0] + x * (reference[2] * share)) * level.width;
      y = (reference[1] + y * (reference[3] * share)) * level.height;
    }
  }
  return split(x - C(0.5), y - C(0.5), level);
}

// By how many pixels a sample moves when its place does by 1.
template <typename C, typename L>
__device__ inline Pack<C, 2> scale_of_places(
    const DeviceShape& shape,
    const Samples<C, L>& samples,
    int64_t query,
    int level_index) {
  if (shape.reference_dim == 2) {
    return {1, 1};
  }
  const DeviceLevel& level = shape.levels[level_index];
  Pack<C, 2> scale{C(level.width), C(level.height)};
  if (shape.reference_dim == 4) {
    const C share = C(0.5) / shape.points;
    const C* reference =
        samples.reference + (query * shape.num_levels + level_index) * 4;
    scale.items[0] *= reference[2] * share;
    scale.items[1] *= reference[3] * share;
  }
  return scale;
}

// What the four pixels of a sample count: upper left, upper right, lower left,
// lower right. The order of corners everywhere.
template <typename C>
struct alignas(16) Weights {
  C corners[4];

  Weights() = default;

  __device__ Weights(C x, C y, C weight) {
    const C lower = weight * y, upper = weight - lower;
    corners[1] = upper * x;
    corners[0] = upper - corners[1];
    corners[3] = lower * x;
    corners[2] = lower - corners[3];
  }
};

// Which of the four pixels lie inside the level, as bits.
__device__ inline unsigned touched_corners(
    int column, int row, const DeviceLevel& level) {
  const unsigned columns = (column >= 0) + 2 * (column + 1 < level.width);
  return (row >= 0 ? columns : 0) + (row + 1 < level.height ? columns << 2 : 0);
}

// Where a row finds its data. A plane is one image and head.
struct Row {
  int64_t query;   // image * queries + query
  int64_t number;  // query * heads + head
  int64_t sample;  // its first
  int64_t value;   // offset of its plane's first channel

  __device__ Row(const DeviceShape& shape, const Spot& spot)
      : Row(shape, spot.image, spot.head, spot.cell) {}

  __device__ Row(const DeviceShape& shape, int64_t plane, int query)
      : Row(shape,
            static_cast<int>(plane / shape.heads),
            static_cast<int>(plane % shape.heads),
            query) {}

 private:
  __device__ Row(const DeviceShape& shape, int image, int head, int of_image)
      : query(int64_t(image) * shape.queries + of_image),
        number(query * shape.heads + head),
        sample(number * shape.samples),
        value(
            image * shape.length * shape.stride +
            int64_t(head) * shape.channels) {}
};

// Turns a row's scores into weights.
template <typename C>
struct Softmax {
  C peak;
  C scale;  // 1 / sum of exp(score - peak): NaN where a score is

  __device__ C operator()(C score) const {
    return exp(score - peak) * scale;
  }
};

// All 0 in the plain form and where a row has no samples.
template <typename C, typename L>
__device__ inline Softmax<C> find_softmax(
    const DeviceShape& shape,
    const Tiling& tiling,
    const Samples<C, L>& samples,
    const Row& row) {
  if (shape.reference_dim == 0 || shape.samples == 0) {
    return {};
  }
  const L* scores = samples.scores + row.sample;
  const int lane = tiling.lane(), group = tiling.group();
  C peak = -INFINITY;
  for (int k = lane; k < shape.samples; k += group) {
    const C score = C(scores[k]);
    peak = score > peak ? score : peak;
  }
  peak = group_max(peak, group);
  C sum = 0;
  for (int k = lane; k < shape.samples; k += group) {
    sum += exp(C(scores[k]) - peak);
  }
  return {peak, 1 / group_sum(sum, group)};
}

}  // namespace panoptic_segformer
