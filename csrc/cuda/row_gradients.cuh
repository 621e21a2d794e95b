// Backward pass: the kernel of a row's gradients.
//
// As in the forward pass a group of threads serves a row. For each sample it
// multiplies the gradient of the row's output with the four pixels: x, y and
// weight get the sums of that over the channels, all of them together by three
// shuffles in groups of 4 threads, four in groups of 8. The gradient of value
// is added from here by atomics or, to be deterministic, by value_gradient.cuh.
#pragma once

#include "corners.cuh"
#include "sampling.cuh"

namespace panoptic_segformer {

// Where a row's gradients go.
template <typename C, typename L>
struct RowGradients {
  C* value;             // sums by atomics; null where Buckets serve instead
  int* counts;          // of Buckets, else null
  Softmax<C>* softmax;  // for those who come after; null in the plain form
  L* places;
  L* scores;
  C* reference;  // [B, Q, M, L, 2 | 4], each head's part; null if plain
};

// A prepared sample, and in the same place its gradients.
template <typename C>
union alignas(16) Slot {
  struct {
    C x;
    C y;
    C weight;
    int corners;  // 16 * (pixel of the anchor) + (bits of the touched ones)
  } sample;
  struct {
    C x;  // these two not yet times the weight
    C y;
    C weight;
    C weight_itself;
  } gradient;
  C sums[4];
};

// An odd number of slots: groups of a warp read from different banks.
__host__ __device__ constexpr int table_slots(int samples) {
  return samples / 2 * 2 + 1;
}

template <typename C, typename L>
__device__ void prepare(
    const DeviceShape& shape,
    const Tiling& tiling,
    const Samples<C, L>& samples,
    const Spot& spot,
    const Row& row,
    const Softmax<C>& softmax,
    int* counts,
    Slot<C>* slots) {
  const bool fused = shape.reference_dim != 0;
  const int64_t plane = int64_t(spot.image) * shape.heads + spot.head;
  int level = 0, level_end = shape.points;
  for (int k = tiling.lane(); k < shape.samples; k += tiling.group()) {
    for (; k >= level_end; level_end += shape.points) {
      ++level;
    }
    const Point<C> point =
        find_point(shape, samples, row.query, row.sample + k, level);
    const C score = C(samples.scores[row.sample + k]);
    auto& sample = slots[k].sample;
    sample.x = point.x;
    sample.y = point.y;
    sample.weight = fused ? softmax(score) : point.touches ? score : 0;
    sample.corners = 0;
    if (point.touches) {
      const DeviceLevel& at = shape.levels[level];
      const int pixel = at.start + point.row * at.width + point.column;
      sample.corners =
          pixel * 16 + int(touched_corners(point.column, point.row, at));
      if (counts != nullptr) {
        atomicAdd(
            counts + find_bucket(shape, plane, level, point.column, point.row),
            1);
      }
    }
  }
}

// Adds four terms up over a group's threads, into target. While more than one
// sum is left to a thread, it gives half of them away instead of keeping all.
template <typename C>
__device__ void sum_into(C* target, C (&terms)[4], int lane, int group) {
  int distance = group / 2, first = 0, kept = 4;
#pragma unroll
  for (int half = 2; half > 0; half /= 2) {
    if (distance > 0) {
      const bool upper = lane & distance;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const C given = upper ? terms[i] : terms[i + half];
        terms[i] = (upper ? terms[i + half] : terms[i]) +
                   __shfl_xor_sync(kWholeWarp, given, distance);
      }
      first += upper ? half : 0;
      kept = half;
      distance /= 2;
    }
  }
  for (; distance > 0; distance /= 2) {
    terms[0] += __shfl_xor_sync(kWholeWarp, terms[0], distance);
  }
  if (group <= 4 || (lane & (group / 4 - 1)) == 0) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < kept) {
        target[first + i] = terms[i];
      }
    }
  }
}

// From the products with the four pixels. The derivative at a pixel's centre,
// where there are two, is the one to the right and below.
template <typename C>
__device__ void write_gradient(
    Slot<C>& slot,
    C x,
    C y,
    C weight,
    const C (&products)[4],
    int lane,
    int group) {
  const C upper_slope = products[1] - products[0];
  const C lower_slope = products[3] - products[2];
  const C upper = products[0] + x * upper_slope;
  const C lower = products[2] + x * lower_slope;
  C terms[4] = {
      upper_slope + y * (lower_slope - upper_slope),
      lower - upper,
      upper + y * (lower - upper),
      lane == 0 ? weight : 0};
  sum_into(slot.sums, terms, lane, group);
}

// 0 stays 0 even by an infinite factor: samples that touch nothing may have
// such ones.
template <typename C>
__device__ C times(C gradient, C factor) {
  return gradient == 0 ? 0 : gradient * factor;
}

// The last steps, by one thread for each sample: through softmax, sizes of
// levels and boxes.
template <typename C, typename L>
__device__ void write_scores_and_places(
    const DeviceShape& shape,
    const Tiling& tiling,
    const Samples<C, L>& samples,
    const Row& row,
    const Slot<C>* slots,
    const RowGradients<C, L>& grads) {
  const int lane = tiling.lane(), group = tiling.group();
  const bool fused = shape.reference_dim != 0;
  C mean = 0;
  if (fused) {
    for (int k = lane; k < shape.samples; k += group) {
      mean += slots[k].gradient.weight_itself * slots[k].gradient.weight;
    }
    mean = group_sum(mean, group);
  }
  int level = 0, level_end = shape.points;
  for (int k = lane; k < shape.samples; k += group) {
    for (; k >= level_end; level_end += shape.points) {
      ++level;
    }
    const auto& sums = slots[k].gradient;
    const C weight = sums.weight_itself;
    grads.scores[row.sample + k] =
        L(fused ? weight * (sums.weight - mean) : sums.weight);
    const Pack<C, 2> scale = scale_of_places(shape, samples, row.query, level);
    Pack<L, 2> place;
    place.items[0] = L(times(sums.x * weight, scale.items[0]));
    place.items[1] = L(times(sums.y * weight, scale.items[1]));
    *reinterpret_cast<Pack<L, 2>*>(grads.places + 2 * (row.sample + k)) = place;
  }
}

// A head's part of the gradient of the reference, by one thread for each
// level.
template <typename C, typename L>
__device__ void write_reference(
    const DeviceShape& shape,
    const Tiling& tiling,
    const Samples<C, L>& samples,
    const Row& row,
    const Slot<C>* slots,
    C* grad_reference) {
  const C share = C(0.5) / shape.points;
  for (int l = tiling.lane(); l < shape.num_levels; l += tiling.group()) {
    C centre[2] = {}, size[2] = {};
    for (int k = l * shape.points; k < (l + 1) * shape.points; ++k) {
      const auto& sums = slots[k].gradient;
      const auto offset = load<2>(samples.places + 2 * (row.sample + k));
      const C x = sums.x * sums.weight_itself * shape.levels[l].width;
      const C y = sums.y * sums.weight_itself * shape.levels[l].height;
      centre[0] += x;
      centre[1] += y;
      size[0] += times(x, C(offset.items[0]) * share);
      size[1] += times(y, C(offset.items[1]) * share);
    }
    C* target = grad_reference +
                (row.number * shape.num_levels + l) * shape.reference_dim;
    target[0] = centre[0];
    target[1] = centre[1];
    if (shape.reference_dim == 4) {
      target[2] = size[0];
      target[3] = size[1];
    }
  }
}

// As many blocks to a multiprocessor as leave enough registers.
template <typename T, typename L, int N>
__global__ void __launch_bounds__(kThreads, N < 8 ? 3 : 2) backward_kernel(
    const __grid_constant__ DeviceShape shape,
    const __grid_constant__ Tiling tiling,
    const Samples<Compute<T>, L> samples,
    const T* __restrict__ grad_output,
    const T* __restrict__ value,
    const RowGradients<Compute<T>, L> grads) {
  using C = Compute<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  const Spot spot = tiling.find();
  if (!spot.exists) {
    return;
  }
  const Row row(shape, spot);
  const int lane = tiling.lane(), group = tiling.group();
  Slot<C>* slots = reinterpret_cast<Slot<C>*>(memory) +
                   tiling.group_in_block() * table_slots(shape.samples);
  const Softmax<C> softmax = find_softmax(shape, tiling, samples, row);
  if (grads.softmax != nullptr && lane == 0) {
    grads.softmax[row.number] = softmax;
  }
  prepare(shape, tiling, samples, spot, row, softmax, grads.counts, slots);
  __syncwarp();

  grad_output += row.number * shape.channels;
  value += row.value;
  C* grad_value = grads.value == nullptr ? nullptr : grads.value + row.value;
  const unsigned stride = shape.stride / N;
  const int step = group * N;
  Pack<C, N> grad{};
  if (lane * N < shape.channels) {
    grad = expand<C>(load<N>(grad_output + lane * N));
  }
  for (int l = 0; l < shape.num_levels; ++l) {
    const int width = shape.levels[l].width;
    for (int k = l * shape.points; k < (l + 1) * shape.points; ++k) {
      const auto sample = slots[k].sample;
      const Weights<C> weights(sample.x, sample.y, sample.weight);
      C products[4] = {};
      for (int c = lane * N; c < shape.channels; c += step) {
        if (N == 1) {  // Wide loads take all channels in one turn.
          grad = expand<C>(load<N>(grad_output + c));
        }
        const Corners<T, N> corners(value + c, sample.corners, width, stride);
        corners.multiply(products, grad);
        if (grad_value != nullptr) {
          corners.scatter(grad_value + c, weights, grad);
        }
      }
      __syncwarp();  // All have read the slot.
      write_gradient(
          slots[k], sample.x, sample.y, sample.weight, products, lane, group);
    }
  }
  __syncwarp();
  write_scores_and_places(shape, tiling, samples, row, slots, grads);
  if (grads.reference != nullptr) {
    write_reference(shape, tiling, samples, row, slots, grads.reference);
  }
}

}  // namespace panoptic_segformer
