// Forward pass: kernel and operators.
#include "launch.cuh"
#include "sampling.cuh"

#include <torch/csrc/stable/library.h>

namespace panoptic_segformer {
namespace {

// Where a sample's pixels lie, counted in packs of channels. Where some of them
// are outside the level, those inside stand in for them with weight 0: loads
// need no condition and stay within reach.
struct Place {
  unsigned first;  // the one to the upper left
  unsigned steps;  // 2 * (packs to the row below) + (whether there is a right)
};

// A row's samples that touch their level.
template <typename C>
struct Table {
  Weights<C>* weights;
  Place* places;
};

// Samples are added in pairs. An odd number of slots lets the groups of a warp
// read from different banks.
__host__ __device__ constexpr int table_slots(int samples) {
  return (samples + 1) / 2 * 2 + 1;
}

template <typename C>
constexpr int64_t table_bytes(int samples) {
  return int64_t(sizeof(Weights<C>) + sizeof(Place)) * table_slots(samples);
}

template <typename C>
__device__ Table<C> find_table(const Tiling& tiling, int samples) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int slots = table_slots(samples);
  auto* weights = reinterpret_cast<Weights<C>*>(memory);
  auto* places = reinterpret_cast<Place*>(
      weights + (blockDim.x >> tiling.group_log2) * slots);
  const int first = tiling.group_in_block() * slots;
  return {weights + first, places + first};
}

template <typename C>
struct Neighbours {
  int first;
  int step;  // to the second; 0 where only one lies inside
  C weights[2];

  __device__ Neighbours(int anchor, C distance, int size)
      : first(anchor < 0 ? 0 : anchor),
        step(anchor >= 0 && anchor + 1 < size),
        weights{anchor < 0 ? distance : 1 - distance, step ? distance : 0} {}
};

template <typename C>
__device__ void write(
    const Table<C>& table,
    int slot,
    const Point<C>& point,
    C weight,
    const DeviceLevel& level,
    unsigned stride) {
  const Neighbours<C> x(point.column, point.x, level.width);
  const Neighbours<C> y(point.row, point.y, level.height);
  const C upper = weight * y.weights[0], lower = weight * y.weights[1];
  C* corners = table.weights[slot].corners;
  corners[0] = upper * x.weights[0];
  corners[1] = upper * x.weights[1];
  corners[2] = lower * x.weights[0];
  corners[3] = lower * x.weights[1];
  table.places[slot] = {
      (level.start + y.first * level.width + x.first) * stride,
      2 * y.step * level.width * stride + x.step};
}

// Fills the table; returns the samples in it, an even number. `stride` counts
// packs from a pixel to the next.
template <typename C, typename L>
__device__ int prepare(
    const DeviceShape& shape,
    const Tiling& tiling,
    const Samples<C, L>& samples,
    const Row& row,
    const Softmax<C>& softmax,
    unsigned stride,
    const Table<C>& table) {
  const int lane = tiling.lane(), group = tiling.group();
  const int first_lane = threadIdx.x % kWarp - lane;
  const unsigned group_lanes = kWholeWarp >> (kWarp - group);
  const unsigned lanes_before = (1u << lane) - 1;
  int count = 0;
  int level = 0, level_end = shape.points;
  for (int first = 0; first < shape.samples; first += group) {
    const int k = first + lane;
    Point<C> point{};
    if (k < shape.samples) {
      for (; k >= level_end; level_end += shape.points) {
        ++level;
      }
      point = find_point(shape, samples, row.query, row.sample + k, level);
    }
    const unsigned touching =
        __ballot_sync(kWholeWarp, point.touches) >> first_lane & group_lanes;
    if (point.touches) {
      const C score = C(samples.scores[row.sample + k]);
      const C weight = shape.reference_dim == 0 ? score : softmax(score);
      const int slot = count + __popc(touching & lanes_before);
      write(table, slot, point, weight, shape.levels[level], stride);
    }
    count += __popc(touching);
  }
  __syncwarp();
  if (count % 2 == 1 && lane == 0) {
    table.weights[count] = Weights<C>(0, 0, 0);
    table.places[count] = table.places[count - 1];  // It is in reach.
  }
  __syncwarp();
  return count + count % 2;
}

template <typename T, int N>
struct Corners {
  Pack<T, N> packs[4];

  __device__ Corners(const T* source, const Place& place, unsigned stride) {
    const unsigned right = place.steps & 1 ? stride : 0;
    const unsigned below = place.first + (place.steps >> 1);
    // The 64 bits begin here: the product with a constant is one instruction.
    packs[0] = load<N>(source + uint64_t(place.first) * N);
    packs[1] = load<N>(source + uint64_t(place.first + right) * N);
    packs[2] = load<N>(source + uint64_t(below) * N);
    packs[3] = load<N>(source + uint64_t(below + right) * N);
  }

  template <typename C>
  __device__ void add_to(Pack<C, N>& totals, const Weights<C>& weights) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      add(totals, weights.corners[j], expand<C>(packs[j]));
    }
  }
};

// Four blocks to a multiprocessor, 32 warps, cover the latency of L2; they
// leave 64 registers to a thread.
template <typename T, typename L, int N>
__global__ void __launch_bounds__(kThreads, 4) forward_kernel(
    const __grid_constant__ DeviceShape shape,
    const __grid_constant__ Tiling tiling,
    const Samples<Compute<T>, L> samples,
    const T* __restrict__ value,
    T* __restrict__ output) {
  using C = Compute<T>;
  const Spot spot = tiling.find();
  if (!spot.exists) {
    return;
  }
  const Row row(shape, spot);
  const Softmax<C> softmax = find_softmax(shape, tiling, samples, row);
  const Table<C> table = find_table<C>(tiling, shape.samples);
  const unsigned stride = shape.stride / N;
  const int count =
      prepare(shape, tiling, samples, row, softmax, stride, table);
  value += row.value;
  output += row.number * shape.channels;
  const int step = tiling.group() * N;
  for (int c = tiling.lane() * N; c < shape.channels; c += step) {
    Pack<C, N> totals;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      totals.items[i] = 0 * softmax.scale;  // NaN stays, whatever is touched.
    }
    for (int k = 0; k < count; k += 2) {
      const Corners<T, N> one(value + c, table.places[k], stride);
      const Corners<T, N> other(value + c, table.places[k + 1], stride);
      one.add_to(totals, table.weights[k]);
      other.add_to(totals, table.weights[k + 1]);
    }
    Pack<T, N> result;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      result.items[i] = T(totals.items[i]);
    }
    *reinterpret_cast<Pack<T, N>*>(output + c) = result;
  }
}

// `reference_points` is null in the plain form.
Tensor run_forward(
    const Shape& sizes,
    const Tensor& value,
    const Tensor* reference_points,
    const Tensor& places,
    const Tensor& scores) {
  const DeviceShape shape = device_shape(sizes);
  const DeviceGuard guard(value.get_device_index());
  const Inputs inputs(value, reference_points, places, scores);
  Tensor output = torch::stable::new_empty(
      value, {sizes.batch, sizes.queries, sizes.heads * sizes.channels});
  if (output.numel() == 0) {
    return output;
  }
  dispatch(
      value.scalar_type(),
      places.scalar_type(),
      shape.channels,
      [&]<typename T, typename L, int N>(Types<T, L>, Width<N>) {
        using C = Compute<T>;
        const Launch launch =
            plan(sizes, query_maps(sizes), N, table_bytes<C>(shape.samples));
        forward_kernel<T, L, N>
            <<<launch.blocks,
               launch.threads,
               launch.shared_bytes,
               current_stream(value)>>>(
                shape,
                launch.tiling,
                inputs.samples<C, L>(),
                inputs.value.const_data_ptr<T>(),
                output.mutable_data_ptr<T>());
        STD_CUDA_KERNEL_LAUNCH_CHECK();
      });
  return output;
}

Tensor ms_deform_attn(
    const Tensor& value,
    Sizes spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Shape shape = check_inputs(
      value, spatial_shapes, sampling_locations, attention_weights);
  return run_forward(
      shape, value, nullptr, sampling_locations, attention_weights);
}

Tensor ms_deform_attn_fused(
    const Tensor& value,
    Sizes spatial_shapes,
    const Tensor& reference_points,
    const Tensor& sampling_offsets,
    const Tensor& attention_logits) {
  const Shape shape = check_fused_inputs(
      value,
      spatial_shapes,
      reference_points,
      sampling_offsets,
      attention_logits);
  return run_forward(
      shape, value, &reference_points, sampling_offsets, attention_logits);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(panoptic_segformer, CUDA, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&ms_deform_attn));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&ms_deform_attn_fused));
}

}  // namespace panoptic_segformer
