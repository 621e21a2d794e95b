// Device kernels of multi-scale deformable attention.
//
// A group of threads, a power of two and at most a warp, serves one image,
// query and head: each thread holds N neighbouring channels, which it loads at
// once, and the threads of a group read the same few rows. Groups of
// neighbouring heads and queries share a block and so the caches.
#pragma once

#include "../ms_deform_attn.h"

#include <cuda_runtime.h>

namespace panoptic_segformer {

constexpr int kThreads = 256;  // of a block
constexpr int kWarp = 32;
constexpr int kMaxLevels = 16;

// Goes to the device as a kernel argument, which needs no copy of its own.
struct DeviceShape {
  int64_t rows;  // images * queries * heads
  int64_t length;
  int64_t heads;
  int64_t channels;
  int64_t queries;
  int64_t points;
  int group;  // threads for one row
  int num_levels;
  Level levels[kMaxLevels];

  __device__ int64_t row() const {
    return int64_t(blockIdx.x) * (kThreads / group) + threadIdx.x / group;
  }

  __device__ int lane() const {
    return threadIdx.x % group;
  }

  // Offset of a row's image and head in value.
  __device__ int64_t value_offset(int64_t row) const {
    const int64_t image = row / (queries * heads), head = row % heads;
    return (image * length * heads + head) * channels;
  }
};

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T items[N];
};

template <int N, typename T>
__device__ inline Pack<T, N> load(const T* source) {
  return *reinterpret_cast<const Pack<T, N>*>(source);
}

// Where one point reads: its four rows in value and their bilinear weights.
template <typename C>
struct Point {
  Neighbours<C> x;
  Neighbours<C> y;
  int64_t offsets[4];  // in elements; upper left, upper right, lower left, ...

  template <typename L>
  __device__ Point(
      const DeviceShape& shape, const Level& level, const L* location)
      : x(locate<C>(C(location[0]), level.width)),
        y(locate<C>(C(location[1]), level.height)) {
    const int64_t stride = shape.heads * shape.channels;
    const int64_t right = x.step * stride;
    const int64_t down = y.step * level.width * stride;
    offsets[0] = (level.start + y.first * level.width + x.first) * stride;
    offsets[1] = offsets[0] + right;
    offsets[2] = offsets[0] + down;
    offsets[3] = offsets[2] + right;
  }

  __device__ bool inside() const {
    return x.inside && y.inside;
  }

  __device__ C weight(int corner) const {
    return y.weight[corner / 2] * x.weight[corner % 2];
  }
};

template <typename T, typename L, int N>
__global__ void __launch_bounds__(kThreads) forward_kernel(
    const DeviceShape shape,
    const T* __restrict__ value,
    const L* __restrict__ locations,
    const L* __restrict__ weights,
    T* __restrict__ output) {
  using C = Compute<T>;
  const int64_t row = shape.row();
  if (row >= shape.rows) {
    return;
  }
  value += shape.value_offset(row);
  locations += row * shape.num_levels * shape.points * 2;
  weights += row * shape.num_levels * shape.points;
  const int64_t step = int64_t(shape.group) * N;
  for (int64_t c = shape.lane() * N; c < shape.channels; c += step) {
    C total[N] = {};
    int64_t index = 0;
    for (int l = 0; l < shape.num_levels; ++l) {
      for (int64_t p = 0; p < shape.points; ++p, ++index) {
        const Point<C> point(shape, shape.levels[l], locations + 2 * index);
        if (!point.inside()) {
          continue;
        }
        const C weight = C(weights[index]);
        Pack<T, N> rows[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          rows[k] = load<N>(value + point.offsets[k] + c);
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const C factor = weight * point.weight(k);
#pragma unroll
          for (int i = 0; i < N; ++i) {
            total[i] += factor * C(rows[k].items[i]);
          }
        }
      }
    }
    Pack<T, N> result;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      result.items[i] = T(total[i]);
    }
    *reinterpret_cast<Pack<T, N>*>(output + row * shape.channels + c) = result;
  }
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kHasWideAtomics = true;
#else
constexpr bool kHasWideAtomics = false;
#endif

template <int N, typename C>
__device__ inline void atomic_add(C* target, const C (&terms)[N]) {
  if constexpr (kHasWideAtomics && std::is_same_v<C, float> && N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      atomicAdd(
          reinterpret_cast<float4*>(target + i),
          make_float4(terms[i], terms[i + 1], terms[i + 2], terms[i + 3]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      atomicAdd(target + i, terms[i]);
    }
  }
}

// The sum over the threads of a group, known to each of them. All threads of
// the warp must call it.
template <typename C>
__device__ inline C group_sum(C term, int group) {
  for (int distance = group / 2; distance > 0; distance /= 2) {
    term += __shfl_xor_sync(0xffffffff, term, distance);
  }
  return term;
}

// grad_value holds zeros and is kept in the type of the sums.
template <typename T, typename L, int N>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    const DeviceShape shape,
    const T* __restrict__ grad_output,
    const T* __restrict__ value,
    const L* __restrict__ locations,
    const L* __restrict__ weights,
    Compute<T>* __restrict__ grad_value,
    L* __restrict__ grad_locations,
    L* __restrict__ grad_weights) {
  using C = Compute<T>;
  const bool active = shape.row() < shape.rows;
  // Idle threads of the last block take part in the sums below.
  const int64_t row = active ? shape.row() : shape.rows - 1;
  value += shape.value_offset(row);
  grad_value += shape.value_offset(row);
  grad_output += row * shape.channels;
  int64_t index = row * shape.num_levels * shape.points;
  const int64_t step = int64_t(shape.group) * N;
  for (int l = 0; l < shape.num_levels; ++l) {
    const Level& level = shape.levels[l];
    for (int64_t p = 0; p < shape.points; ++p, ++index) {
      const Point<C> point(shape, level, locations + 2 * index);
      const C weight = C(weights[index]);
      const int64_t end = active && point.inside() ? shape.channels : 0;
      C dots[4] = {};
      for (int64_t c = shape.lane() * N; c < end; c += step) {
        const Pack<T, N> grad = load<N>(grad_output + c);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int64_t offset = point.offsets[k] + c;
          const Pack<T, N> items = load<N>(value + offset);
          const C factor = weight * point.weight(k);
          C terms[N];
#pragma unroll
          for (int i = 0; i < N; ++i) {
            dots[k] += C(grad.items[i]) * C(items.items[i]);
            terms[i] = factor * C(grad.items[i]);
          }
          if (factor !=
              0) {  // Corners outside the level are not worth a write.
            atomic_add(grad_value + offset, terms);
          }
        }
      }
      const auto partial =
          point_gradients(point.x, point.y, level, weight, dots);
      const C grad_x = group_sum(partial.x, shape.group);
      const C grad_y = group_sum(partial.y, shape.group);
      const C grad_weight = group_sum(partial.weight, shape.group);
      if (active && shape.lane() == 0) {
        grad_locations[2 * index] = L(grad_x);
        grad_locations[2 * index + 1] = L(grad_y);
        grad_weights[index] = L(grad_weight);
      }
    }
  }
}

}  // namespace panoptic_segformer
