// Host side of the kernels: limits, contiguous inputs, dtypes, blocks.
#pragma once

#include "sampling.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

namespace panoptic_segformer {

using torch::stable::accelerator::DeviceGuard;

// Pixels are kept with 4 more bits in an int. Shared memory of a block needs no
// request up to 48 KB.
constexpr int64_t kMaxLength = (int64_t(1) << 27) - 1;
constexpr int64_t kSharedBytes = 48 * 1024;

void check_limit(const char* name, int64_t seen, int64_t limit);

DeviceShape device_shape(const Shape& shape);

cudaStream_t current_stream(const Tensor& tensor);

// Contiguous, and at an address that allows the widest loads.
Tensor packed(const Tensor& tensor);

struct Inputs {
  Tensor value;
  Tensor places;
  Tensor scores;
  Tensor reference;  // `scores` again in the plain form, where it is not read
  bool fused;

  Inputs(
      const Tensor& value,
      const Tensor* reference_points,
      const Tensor& places,
      const Tensor& scores);

  template <typename C, typename L>
  Samples<C, L> samples() const {
    return {
        places.const_data_ptr<L>(),
        scores.const_data_ptr<L>(),
        fused ? reference.const_data_ptr<C>() : nullptr};
  }
};

struct Map {
  int64_t height;
  int64_t width;
  int64_t start;
};

// The queries as maps of neighbours: where there are as many as pixels, they
// are taken for the pixels (as in an encoder), else for one line. It only
// orders the work.
std::vector<Map> query_maps(const Shape& shape);

struct Launch {
  Tiling tiling;
  unsigned blocks;
  unsigned threads;
  size_t shared_bytes;
};

// Groups of threads of `width` channels each, as many to a block as its shared
// memory has room for.
Launch plan(
    const Shape& shape,
    const std::vector<Map>& maps,
    int width,
    int64_t bytes_per_group);

template <int N>
using Width = std::integral_constant<int, N>;

// Calls run(Types<T, L>{}, Width<N>{}), N being the channels that a thread
// loads at once.
template <typename F>
void dispatch(
    ScalarType value, ScalarType places, int64_t channels, const F& run) {
  dispatch_types(value, places, [&]<typename T, typename L>(Types<T, L> types) {
    constexpr int kWide = kLoadBytes / sizeof(T);
    if (channels % kWide == 0 && channels <= kWarp * kWide) {
      run(types, Width<kWide>{});
    } else {
      run(types, Width<1>{});
    }
  });
}

}  // namespace panoptic_segformer
