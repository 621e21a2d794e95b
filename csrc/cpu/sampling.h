// What the CPU kernels of both directions share: the points of a query as a
// table of rows and weights, and the walk over channels.
#pragma once

#include "../ms_deform_attn.h"

namespace panoptic_segformer {

// Contiguous arrays of one call.
template <typename T>
struct Inputs {
  const T* value;
  const T* locations;
  const T* weights;

  Inputs(const Tensor& value, const Tensor& locations, const Tensor& weights)
      : value(value.const_data_ptr<T>()),
        locations(locations.const_data_ptr<T>()),
        weights(weights.const_data_ptr<T>()) {}
};

// One point of one query and head: four rows of channels and their weights,
// attention included. Offsets count positions of the level, not elements.
template <typename T>
struct Sample {
  int64_t position;
  int64_t right;
  int64_t down;
  T weight[4];
};

// Writes the samples that touch their level and returns how many there are.
template <typename T>
int64_t gather_samples(
    const Shape& shape,
    const T* locations,
    const T* weights,
    Sample<T>* samples) {
  int64_t count = 0;
  for (const Level& level : shape.levels) {
    for (int64_t point = 0; point < shape.points; ++point) {
      const auto x = locate(locations[0], level.width);
      const auto y = locate(locations[1], level.height);
      const T weight = *weights;
      Sample<T>& sample = samples[count];
      sample.position = level.start + y.first * level.width + x.first;
      sample.right = x.step;
      sample.down = y.step * level.width;
      sample.weight[0] = weight * y.weight[0] * x.weight[0];
      sample.weight[1] = weight * y.weight[0] * x.weight[1];
      sample.weight[2] = weight * y.weight[1] * x.weight[0];
      sample.weight[3] = weight * y.weight[1] * x.weight[1];
      count += x.inside && y.inside;
      locations += 2;
      ++weights;
    }
  }
  return count;
}

// Calls run(integral_constant<N>, c) for blocks of N channels that cover them
// all: blocks of a fixed size stay in registers.
template <typename F>
void for_channel_blocks(int64_t channels, const F& run) {
  int64_t c = 0;
  for (; c + 32 <= channels; c += 32) {
    run(std::integral_constant<int, 32>{}, c);
  }
  for (; c + 8 <= channels; c += 8) {
    run(std::integral_constant<int, 8>{}, c);
  }
  for (; c < channels; ++c) {
    run(std::integral_constant<int, 1>{}, c);
  }
}

}  // namespace panoptic_segformer
