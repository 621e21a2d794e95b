// CUDA launchers: device, stream, dtypes and vector widths.
#include "ms_deform_attn.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <initializer_list>
#include <tuple>

namespace panoptic_segformer {
namespace {

constexpr int kLoadBytes = 16;  // the widest load of one thread

DeviceShape device_shape(const Shape& shape) {
  STD_TORCH_CHECK(
      shape.levels.size() <= kMaxLevels,
      "ms_deform_attn takes at most ",
      kMaxLevels,
      " levels on a CUDA device, got ",
      shape.levels.size());
  DeviceShape result{};
  result.rows = shape.batch * shape.queries * shape.heads;
  result.length = shape.length;
  result.heads = shape.heads;
  result.channels = shape.channels;
  result.queries = shape.queries;
  result.points = shape.points;
  result.num_levels = static_cast<int>(shape.levels.size());
  std::copy(shape.levels.begin(), shape.levels.end(), result.levels);
  return result;
}

// What is launched reads the inputs in the device's memory; spatial_shapes
// alone on a device brings the others here too.
void check_on_cuda(const Tensor& value) {
  STD_TORCH_CHECK(
      value.is_cuda(),
      "value, sampling_locations and attention_weights must be on a CUDA "
      "device where spatial_shapes is on one");
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

template <typename T, typename L>
struct Types {
  using Value = T;
  using Location = L;  // of sampling_locations and attention_weights
};

// Calls run(Types<T, L>{}) for the dtypes that check_inputs lets through.
template <typename F>
void dispatch_types(ScalarType value, ScalarType location, const F& run) {
  const bool mixed = value != location;
  switch (value) {
    case ScalarType::Double:
      return run(Types<double, double>{});
    case ScalarType::Float:
      return run(Types<float, float>{});
    case ScalarType::Half:
      return mixed ? run(Types<Half, float>{}) : run(Types<Half, Half>{});
    case ScalarType::BFloat16:
      return mixed ? run(Types<BFloat16, float>{})
                   : run(Types<BFloat16, BFloat16>{});
    default:
      STD_TORCH_CHECK(false, "ms_deform_attn has no kernel for ", value);
  }
}

// Calls run(integral_constant<N>) with the channels that a thread loads at
// once: as many as fill a wide load where size and addresses allow it, else 1.
template <typename T, typename F>
void dispatch_width(
    int64_t channels, std::initializer_list<const void*> arrays, const F& run) {
  constexpr int kWidth = kLoadBytes / sizeof(T);
  const bool aligned =
      std::all_of(arrays.begin(), arrays.end(), [](const void* array) {
        return reinterpret_cast<uintptr_t>(array) % kLoadBytes == 0;
      });
  if (aligned && channels % kWidth == 0) {
    run(std::integral_constant<int, kWidth>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

// Sets the threads of a row for `width` channels each; returns the blocks.
unsigned plan_blocks(DeviceShape& shape, int width) {
  shape.group = 1;
  while (shape.group < kWarp && shape.group * width < shape.channels) {
    shape.group *= 2;
  }
  const int64_t rows_per_block = kThreads / shape.group;
  const int64_t blocks = (shape.rows + rows_per_block - 1) / rows_per_block;
  STD_TORCH_CHECK(
      blocks <= INT32_MAX,
      "ms_deform_attn got too many queries for one launch: images * queries * "
      "heads is ",
      shape.rows);
  return static_cast<unsigned>(blocks);
}

Tensor ms_deform_attn(
    const Tensor& value,
    const Tensor& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Shape sizes = check_inputs(
      value, spatial_shapes, sampling_locations, attention_weights);
  check_on_cuda(value);
  DeviceShape shape = device_shape(sizes);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  const Tensor values = torch::stable::contiguous(value);
  const Tensor locations = torch::stable::contiguous(sampling_locations);
  const Tensor weights = torch::stable::contiguous(attention_weights);
  Tensor output = torch::stable::new_empty(
      value, {sizes.batch, sizes.queries, sizes.heads * sizes.channels});
  if (shape.rows == 0) {
    return output;
  }
  const auto run = [&](auto types) {
    using T = typename decltype(types)::Value;
    using L = typename decltype(types)::Location;
    const T* source = values.const_data_ptr<T>();
    T* target = output.mutable_data_ptr<T>();
    dispatch_width<T>(shape.channels, {source, target}, [&](auto width) {
      const unsigned blocks = plan_blocks(shape, width);
      forward_kernel<T, L, width>
          <<<blocks, kThreads, 0, current_stream(value)>>>(
              shape,
              source,
              locations.const_data_ptr<L>(),
              weights.const_data_ptr<L>(),
              target);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  };
  dispatch_types(value.scalar_type(), locations.scalar_type(), run);
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_output,
    const Tensor& value,
    const Tensor& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Shape sizes = check_inputs(
      value, spatial_shapes, sampling_locations, attention_weights);
  check_on_cuda(value);
  check_grad_output(grad_output, value, sizes);
  DeviceShape shape = device_shape(sizes);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  const Tensor grads = torch::stable::contiguous(grad_output);
  const Tensor values = torch::stable::contiguous(value);
  const Tensor locations = torch::stable::contiguous(sampling_locations);
  const Tensor weights = torch::stable::contiguous(attention_weights);
  Tensor grad_value = torch::stable::new_zeros(
      value, value.sizes(), compute_type(value.scalar_type()));
  Tensor grad_locations =
      torch::stable::new_empty(locations, locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(weights, weights.sizes());
  const auto run = [&](auto types) {
    using T = typename decltype(types)::Value;
    using L = typename decltype(types)::Location;
    const T* grad = grads.const_data_ptr<T>();
    const T* source = values.const_data_ptr<T>();
    dispatch_width<T>(shape.channels, {grad, source}, [&](auto width) {
      const unsigned blocks = plan_blocks(shape, width);
      backward_kernel<T, L, width>
          <<<blocks, kThreads, 0, current_stream(value)>>>(
              shape,
              grad,
              source,
              locations.const_data_ptr<L>(),
              weights.const_data_ptr<L>(),
              grad_value.mutable_data_ptr<Compute<T>>(),
              grad_locations.mutable_data_ptr<L>(),
              grad_weights.mutable_data_ptr<L>());
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  };
  if (shape.rows > 0) {
    dispatch_types(value.scalar_type(), locations.scalar_type(), run);
  }
  return {
      torch::stable::to(grad_value, value.scalar_type()),
      grad_locations,
      grad_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(panoptic_segformer, CUDA, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&ms_deform_attn_backward));
}

}  // namespace panoptic_segformer
