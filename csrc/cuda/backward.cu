// Backward pass: launches and operators.
#include "launch.cuh"
#include "row_gradients.cuh"
#include "value_gradient.cuh"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <vector>

namespace panoptic_segformer {
namespace {

// Fills grad_value from what the backward kernel counted in `buckets`.
template <typename T, typename L, int N>
void add_by_owners(
    const Shape& sizes,
    const DeviceShape& shape,
    const Samples<Compute<T>, L>& samples,
    const Softmax<Compute<T>>* softmax,
    const T* grad_output,
    const Buckets& buckets,
    Compute<T>* grad_value,
    cudaStream_t stream) {
  using C = Compute<T>;
  const int64_t planes = sizes.batch * sizes.heads;
  const auto blocks = [&](int64_t items, int per_block) {
    const int64_t count = planes * ((items + per_block - 1) / per_block);
    check_limit("blocks (images * heads * ...)", count, INT32_MAX);
    return static_cast<unsigned>(count);
  };
  place_kernel<<<blocks(shape.anchors, kThreads), kThreads, 0, stream>>>(
      shape.anchors, buckets);
  fill_kernel<C, L>
      <<<blocks(sizes.queries * shape.samples, kThreads),
         kThreads,
         0,
         stream>>>(shape, samples, buckets);
  sort_kernel<<<blocks(shape.anchors, kThreads / kWarp), kThreads, 0, stream>>>(
      shape, buckets);
  for (int odd = 0; odd < 4; ++odd) {
    std::vector<Map> anchors;  // Each level has height + 1 by width + 1.
    for (const Level& level : sizes.levels) {
      const int64_t height = (level.height + 2 - odd / 2) / 2;
      const int64_t width = (level.width + 2 - odd % 2) / 2;
      anchors.push_back({height, width, 0});
    }
    const Launch launch = plan(sizes, anchors, N, 0);
    add_kernel<T, L, N><<<launch.blocks, launch.threads, 0, stream>>>(
        shape,
        launch.tiling,
        odd,
        samples,
        softmax,
        grad_output,
        buckets,
        grad_value);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Memory of the deterministic sums.
class Scratch {
 public:
  Scratch(const Tensor& value, const Shape& sizes, const DeviceShape& shape) {
    const int64_t planes = sizes.batch * sizes.heads;
    const int64_t entries = sizes.queries * shape.samples;
    check_limit(
        "queries * levels * points in deterministic mode", entries, INT32_MAX);
    const auto zeros = [&](int64_t count) {
      return torch::stable::new_zeros(value, {count}, ScalarType::Int);
    };
    tensors_ = {
        zeros(planes * shape.anchors),
        zeros(planes * shape.anchors),
        zeros(planes),
        torch::stable::new_empty(value, {planes * entries}, ScalarType::Int)};
    softmax_ = torch::stable::new_empty(
        value,
        {shape.reference_dim == 0 ? 0 : planes * sizes.queries, 2},
        compute_type(value.scalar_type()));
  }

  Buckets buckets() {
    return {
        tensors_[0].mutable_data_ptr<int>(),
        tensors_[1].mutable_data_ptr<int>(),
        tensors_[2].mutable_data_ptr<int>(),
        tensors_[3].mutable_data_ptr<int>()};
  }

  template <typename C>
  Softmax<C>* softmax() {  // null in the plain form
    return softmax_.numel() == 0
               ? nullptr
               : reinterpret_cast<Softmax<C>*>(softmax_.mutable_data_ptr<C>());
  }

 private:
  std::vector<Tensor> tensors_;
  Tensor softmax_;
};

struct Gradients {
  Tensor value;
  Tensor places;
  Tensor scores;
  Tensor reference;  // [B, Q, M, L, 0 | 2 | 4], each head's part
};

template <typename T, typename L, int N>
void launch_backward(
    const Shape& sizes,
    const Tensor& grad_output,
    const Inputs& inputs,
    bool deterministic,
    Gradients& grads) {
  using C = Compute<T>;
  const DeviceShape shape = device_shape(sizes);
  const cudaStream_t stream = current_stream(inputs.value);
  const Launch launch = plan(
      sizes,
      query_maps(sizes),
      N,
      int64_t(sizeof(Slot<C>)) * table_slots(shape.samples));
  std::optional<Scratch> scratch;
  RowGradients<C, L> targets{
      grads.value.mutable_data_ptr<C>(),
      nullptr,
      nullptr,
      grads.places.mutable_data_ptr<L>(),
      grads.scores.mutable_data_ptr<L>(),
      inputs.fused ? grads.reference.mutable_data_ptr<C>() : nullptr};
  if (deterministic) {
    scratch.emplace(inputs.value, sizes, shape);
    targets.value = nullptr;
    targets.counts = scratch->buckets().counts;
    targets.softmax = scratch->softmax<C>();
  }
  backward_kernel<T, L, N>
      <<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(
          shape,
          launch.tiling,
          inputs.samples<C, L>(),
          grad_output.const_data_ptr<T>(),
          inputs.value.const_data_ptr<T>(),
          targets);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (deterministic) {
    add_by_owners<T, L, N>(
        sizes,
        shape,
        inputs.samples<C, L>(),
        targets.softmax,
        grad_output.const_data_ptr<T>(),
        scratch->buckets(),
        grads.value.mutable_data_ptr<C>(),
        stream);
  }
}

// `reference_points` is null in the plain form.
Gradients run_backward(
    const Shape& sizes,
    const Tensor& grad_output,
    const Tensor& value,
    const Tensor* reference_points,
    const Tensor& places,
    const Tensor& scores,
    bool deterministic) {
  check_grad_output(grad_output, value, sizes);
  const DeviceGuard guard(value.get_device_index());
  const Inputs inputs(value, reference_points, places, scores);
  const Tensor grad = packed(grad_output);
  const ScalarType compute = compute_type(value.scalar_type());
  Gradients grads{
      torch::stable::new_zeros(value, value.sizes(), compute),
      torch::stable::new_empty(inputs.places, places.sizes()),
      torch::stable::new_empty(inputs.scores, scores.sizes()),
      torch::stable::new_empty(
          value,
          {sizes.batch,
           sizes.queries,
           sizes.heads,
           static_cast<int64_t>(sizes.levels.size()),
           sizes.reference_dim},
          compute)};
  if (scores.numel() > 0) {
    dispatch(
        value.scalar_type(),
        places.scalar_type(),
        sizes.channels,
        [&]<typename T, typename L, int N>(Types<T, L>, Width<N>) {
          launch_backward<T, L, N>(sizes, grad, inputs, deterministic, grads);
        });
  } else {
    torch::stable::zero_(grads.reference);
  }
  grads.value = torch::stable::to(grads.value, value.scalar_type());
  return grads;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_output,
    const Tensor& value,
    Sizes spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights,
    bool deterministic) {
  const Shape shape = check_inputs(
      value, spatial_shapes, sampling_locations, attention_weights);
  const Gradients grads = run_backward(
      shape,
      grad_output,
      value,
      nullptr,
      sampling_locations,
      attention_weights,
      deterministic);
  return {grads.value, grads.places, grads.scores};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ms_deform_attn_fused_backward(
    const Tensor& grad_output,
    const Tensor& value,
    Sizes spatial_shapes,
    const Tensor& reference_points,
    const Tensor& sampling_offsets,
    const Tensor& attention_logits,
    bool deterministic) {
  const Shape shape = check_fused_inputs(
      value,
      spatial_shapes,
      reference_points,
      sampling_offsets,
      attention_logits);
  const Gradients grads = run_backward(
      shape,
      grad_output,
      value,
      &reference_points,
      sampling_offsets,
      attention_logits,
      deterministic);
  const int64_t heads = 2;
  return {
      grads.value,
      torch::stable::sum(
          grads.reference, torch::headeronly::IntHeaderOnlyArrayRef(heads)),
      grads.places,
      grads.scores};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(panoptic_segformer, CUDA, m) {
  m.impl("ms_deform_attn_backward", TORCH_BOX(&ms_deform_attn_backward));
  m.impl(
      "ms_deform_attn_fused_backward",
      TORCH_BOX(&ms_deform_attn_fused_backward));
}

}  // namespace panoptic_segformer
