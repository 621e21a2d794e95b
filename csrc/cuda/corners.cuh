// A sample's four pixels in the backward pass: reading them, and adding to
// their gradients by atomics, in float32 (float64) and 16 bytes at a time where
// the chip has such atomics.
#pragma once

#include "sampling.cuh"

namespace panoptic_segformer {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kHasWideAtomics = true;
#else
constexpr bool kHasWideAtomics = false;
#endif

template <typename C, int N>
__device__ void atomic_add(C* target, C factor, const Pack<C, N>& items) {
  if constexpr (kHasWideAtomics && std::is_same_v<C, float> && N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      atomicAdd(
          reinterpret_cast<float4*>(target + i),
          make_float4(
              factor * items.items[i],
              factor * items.items[i + 1],
              factor * items.items[i + 2],
              factor * items.items[i + 3]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      atomicAdd(target + i, factor * items.items[i]);
    }
  }
}

// The pixels of a sample, 0 where they lie outside the level.
template <typename T, int N>
struct Corners {
  Pack<T, N> packs[4];
  unsigned offsets[4];  // in packs
  unsigned touched;

  __device__ Corners(
      const T* source, int corners, unsigned width, unsigned stride)
      : touched(corners & 15) {
    const unsigned first = unsigned(corners >> 4) * stride;  // May wrap around.
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      offsets[k] = first + (k / 2 * width + k % 2) * stride;
      packs[k] = {};
      if (touched >> k & 1) {
        packs[k] = load<N>(source + uint64_t(offsets[k]) * N);
      }
    }
  }

  template <typename C>
  __device__ void multiply(C (&products)[4], const Pack<C, N>& grad) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const Pack<C, N> items = expand<C>(packs[k]);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        products[k] += items.items[i] * grad.items[i];
      }
    }
  }

  template <typename C>
  __device__ void scatter(
      C* target, const Weights<C>& weights, const Pack<C, N>& grad) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (touched >> k & 1) {
        atomic_add(target + uint64_t(offsets[k]) * N, weights.corners[k], grad);
      }
    }
  }
};

}  // namespace panoptic_segformer
