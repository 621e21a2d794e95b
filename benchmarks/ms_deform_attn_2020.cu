// A baseline for benchmarks/ms_deform_attn.py: the scheme of the 2020 operator,
// in float32, so that speedups can be told where no installable peer runs.
//
// Forward: one thread per output channel, which works out every sample of its
// query and head itself and loads one channel of its four pixels at a time.
// Backward: one block per query and head, one thread per channel; every thread
// adds to the gradient of value by atomics of its own, the gradients of
// locations and weights are summed over the block in shared memory.
//
// Shapes: value [B, S, M, C], shapes [L, 2] (height, width) and starts [L] of
// the levels in S, locations [B, Q, M, L, P, 2] (x, y), weights
// [B, Q, M, L, P] -> [B, Q, M * C]; int64 levels on the device, C up to 1024.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

namespace {

constexpr int kThreads = 1024;

struct Sizes {
  int length, heads, channels, levels, queries, points;
};

// The four pixels of a sample: whether each lies inside the level, where, and
// how much it weighs.
struct Corners {
  bool inside[4];
  long offsets[4];
  float x, y;

  __device__ float weight(int k) const {
    return (k / 2 ? y : 1 - y) * (k % 2 ? x : 1 - x);
  }
};

__device__ bool find_corners(
    const Sizes& sizes,
    const int64_t* shapes,
    const int64_t* starts,
    const float* location,
    int level,
    Corners& corners) {
  const int height = shapes[2 * level], width = shapes[2 * level + 1];
  const float x = location[0] * width - 0.5f, y = location[1] * height - 0.5f;
  if (!(x > -1 && x < width && y > -1 && y < height)) {
    return false;
  }
  const int left = floorf(x), top = floorf(y);
  corners.x = x - left;
  corners.y = y - top;
  for (int k = 0; k < 4; ++k) {
    const int column = left + k % 2, row = top + k / 2;
    corners.inside[k] =
        column >= 0 && column < width && row >= 0 && row < height;
    corners.offsets[k] = (starts[level] + long(row) * width + column) *
                         sizes.heads * sizes.channels;
  }
  return true;
}

__global__ void forward_kernel(
    long outputs,
    Sizes sizes,
    const float* value,
    const int64_t* shapes,
    const int64_t* starts,
    const float* locations,
    const float* weights,
    float* output) {
  const long index = long(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= outputs) {
    return;
  }
  const int channel = index % sizes.channels;
  const long row = index / sizes.channels;
  const int head = row % sizes.heads;
  const long image = row / sizes.heads / sizes.queries;
  const float* source =
      value + (image * sizes.length * sizes.heads + head) * sizes.channels;
  long sample = row * sizes.levels * sizes.points;
  float total = 0;
  for (int l = 0; l < sizes.levels; ++l) {
    for (int p = 0; p < sizes.points; ++p, ++sample) {
      Corners corners;
      if (!find_corners(
              sizes, shapes, starts, locations + 2 * sample, l, corners)) {
        continue;
      }
      float sum = 0;
      for (int k = 0; k < 4; ++k) {
        if (corners.inside[k]) {
          sum += corners.weight(k) * source[corners.offsets[k] + channel];
        }
      }
      total += weights[sample] * sum;
    }
  }
  output[index] = total;
}

// Adds term up over the block; the result is thread 0's.
__device__ float block_sum(float* memory, float term) {
  memory[threadIdx.x] = term;
  __syncthreads();
  for (int count = blockDim.x; count > 1; count = (count + 1) / 2) {
    const int half = (count + 1) / 2;
    if (threadIdx.x + half < count) {
      memory[threadIdx.x] += memory[threadIdx.x + half];
    }
    __syncthreads();
  }
  const float sum = memory[0];
  __syncthreads();
  return sum;
}

__global__ void backward_kernel(
    Sizes sizes,
    const float* grad_output,
    const float* value,
    const int64_t* shapes,
    const int64_t* starts,
    const float* locations,
    const float* weights,
    float* grad_value,
    float* grad_locations,
    float* grad_weights) {
  extern __shared__ float memory[];
  const long row = blockIdx.x;
  const int channel = threadIdx.x, head = row % sizes.heads;
  const long image = row / sizes.heads / sizes.queries;
  const long plane =
      (image * sizes.length * sizes.heads + head) * sizes.channels + channel;
  const float grad = grad_output[row * sizes.channels + channel];
  long sample = row * sizes.levels * sizes.points;
  for (int l = 0; l < sizes.levels; ++l) {
    for (int p = 0; p < sizes.points; ++p, ++sample) {
      Corners corners;
      float values[4] = {};
      const bool inside = find_corners(
          sizes, shapes, starts, locations + 2 * sample, l, corners);
      for (int k = 0; inside && k < 4; ++k) {
        if (corners.inside[k]) {
          const long offset = plane + corners.offsets[k];
          values[k] = value[offset];
          atomicAdd(
              grad_value + offset, weights[sample] * corners.weight(k) * grad);
        }
      }
      const float x = inside ? corners.x : 0, y = inside ? corners.y : 0;
      const float upper = values[0] + x * (values[1] - values[0]);
      const float lower = values[2] + x * (values[3] - values[2]);
      const float slope =
          (1 - y) * (values[1] - values[0]) + y * (values[3] - values[2]);
      const float grad_x = block_sum(memory, grad * slope);
      const float grad_y = block_sum(memory, grad * (lower - upper));
      const float grad_weight =
          block_sum(memory, grad * (upper + y * (lower - upper)));
      if (threadIdx.x == 0) {
        const float weight = weights[sample];
        grad_locations[2 * sample] = weight * shapes[2 * l + 1] * grad_x;
        grad_locations[2 * sample + 1] = weight * shapes[2 * l] * grad_y;
        grad_weights[sample] = grad_weight;
      }
    }
  }
}

Sizes find_sizes(const at::Tensor& value, const at::Tensor& weights) {
  return {
      static_cast<int>(value.size(1)),
      static_cast<int>(value.size(2)),
      static_cast<int>(value.size(3)),
      static_cast<int>(weights.size(3)),
      static_cast<int>(weights.size(1)),
      static_cast<int>(weights.size(4))};
}

void check(const std::vector<at::Tensor>& floats) {
  for (const at::Tensor& tensor : floats) {
    TORCH_CHECK(
        tensor.is_cuda() && tensor.is_contiguous() &&
            tensor.scalar_type() == at::kFloat,
        "the baseline of 2020 takes contiguous float32 tensors on a CUDA "
        "device, got ",
        tensor.toString());
  }
}

at::Tensor forward(
    const at::Tensor& value,
    const at::Tensor& shapes,
    const at::Tensor& starts,
    const at::Tensor& locations,
    const at::Tensor& weights) {
  check({value, locations, weights});
  const c10::cuda::CUDAGuard guard(value.device());
  const Sizes sizes = find_sizes(value, weights);
  at::Tensor output = at::empty(
      {value.size(0), sizes.queries, sizes.heads * sizes.channels},
      value.options());
  const long outputs = output.numel();
  forward_kernel<<<
      (outputs + kThreads - 1) / kThreads,
      kThreads,
      0,
      c10::cuda::getCurrentCUDAStream()>>>(
      outputs,
      sizes,
      value.const_data_ptr<float>(),
      shapes.const_data_ptr<int64_t>(),
      starts.const_data_ptr<int64_t>(),
      locations.const_data_ptr<float>(),
      weights.const_data_ptr<float>(),
      output.mutable_data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

std::vector<at::Tensor> backward(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& shapes,
    const at::Tensor& starts,
    const at::Tensor& locations,
    const at::Tensor& weights) {
  check({grad_output, value, locations, weights});
  const c10::cuda::CUDAGuard guard(value.device());
  const Sizes sizes = find_sizes(value, weights);
  at::Tensor grad_value = at::zeros_like(value);
  at::Tensor grad_locations = at::empty_like(locations);
  at::Tensor grad_weights = at::empty_like(weights);
  backward_kernel<<<
      value.size(0) * sizes.queries * sizes.heads,
      sizes.channels,
      sizes.channels * sizeof(float),
      c10::cuda::getCurrentCUDAStream()>>>(
      sizes,
      grad_output.const_data_ptr<float>(),
      value.const_data_ptr<float>(),
      shapes.const_data_ptr<int64_t>(),
      starts.const_data_ptr<int64_t>(),
      locations.const_data_ptr<float>(),
      weights.const_data_ptr<float>(),
      grad_value.mutable_data_ptr<float>(),
      grad_locations.mutable_data_ptr<float>(),
      grad_weights.mutable_data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("forward", &forward);
  m.def("backward", &backward);
}
