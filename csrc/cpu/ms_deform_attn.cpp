// CPU entry points: tensors in, tasks for the kernels out.
#include "kernels.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

namespace panoptic_segformer {
namespace {

// About as many multiplications as make a task worth a thread.
constexpr int64_t kGrain = 1 << 18;

// What one form of the operator takes beside value, contiguous.
struct Arguments {
  Tensor places;
  Tensor scores;
  Tensor reference;  // undefined in the plain form
};

template <typename C>
std::vector<QuadLevels<C>> quad_levels(const Shape& shape) {
  const int64_t samples = shape.samples();
  // Lanes past the last sample read nothing, but from a valid level.
  std::vector<QuadLevels<C>> quads(
      (samples + kQuad - 1) / kQuad,
      {{1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}, {}, {}});
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t index = i / shape.points;
    const Level& level = shape.levels[index];
    QuadLevels<C>& quad = quads[i / kQuad];
    const int64_t lane = i % kQuad;
    quad.width[lane] = static_cast<C>(level.width);
    quad.height[lane] = static_cast<C>(level.height);
    quad.columns[lane] = static_cast<int32_t>(level.width);
    quad.start[lane] = static_cast<int32_t>(level.start);
    quad.level[lane] = static_cast<int32_t>(index);
  }
  return quads;
}

template <typename T, typename L>
Call<T, L> make_call(
    const Shape& shape,
    const std::vector<QuadLevels<Compute<T>>>& quads,
    const Tensor& value,
    const Arguments& arguments) {
  const bool fused = shape.reference_dim != 0;
  return {
      shape.length,
      shape.heads,
      shape.channels,
      shape.queries,
      static_cast<int64_t>(shape.levels.size()),
      shape.points,
      shape.samples(),
      shape.reference_dim,
      quads.data(),
      value.const_data_ptr<T>(),
      fused ? arguments.reference.const_data_ptr<Compute<T>>() : nullptr,
      arguments.places.const_data_ptr<L>(),
      arguments.scores.const_data_ptr<L>()};
}

Tensor forward(
    const Shape& shape, const Tensor& value, const Arguments& arguments) {
  const Tensor values = torch::stable::contiguous(value);
  Tensor output = torch::stable::new_empty(
      value, {shape.batch, shape.queries, shape.heads * shape.channels});
  if (output.numel() == 0) {
    return output;
  }
  const auto run = [&](auto types) {
    using T = typename decltype(types)::Value;
    using L = typename decltype(types)::Location;
    const auto quads = quad_levels<Compute<T>>(shape);
    const Call<T, L> call = make_call<T, L>(shape, quads, values, arguments);
    const Kernels<T, L>& best = kernels<T, L>();
    T* target = output.mutable_data_ptr<T>();
    const int64_t cost = 4 * call.samples * call.channels + 1;
    torch::stable::parallel_for(
        0,
        shape.batch * shape.heads * shape.queries,
        std::max<int64_t>(1, kGrain / cost),
        [&](int64_t begin, int64_t end) {
          best.forward(call, begin, end, target);
        });
  };
  dispatch_types(value.scalar_type(), arguments.places.scalar_type(), run);
  return output;
}

// Sums [B, M, rows] over the heads to [B, rows].
template <typename C>
void sum_heads(
    const C* parts, int64_t batch, int64_t heads, int64_t rows, C* target) {
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const C* part = parts + i / rows * heads * rows + i % rows;
      C sum = 0;
      for (int64_t head = 0; head < heads; ++head) {
        sum += part[head * rows];
      }
      target[i] = sum;
    }
  };
  torch::stable::parallel_for(0, batch * rows, kGrain / 8, body);
}

struct GradientTensors {
  Tensor value;
  Tensor places;
  Tensor scores;
  Tensor reference;  // undefined in the plain form
};

GradientTensors backward(
    const Shape& shape,
    const Tensor& grad_output,
    const Tensor& value,
    const Arguments& arguments) {
  check_grad_output(grad_output, value, shape);
  const Tensor grad = torch::stable::contiguous(grad_output);
  const Tensor values = torch::stable::contiguous(value);
  GradientTensors result{
      torch::stable::new_empty(values, values.sizes()),
      torch::stable::new_empty(arguments.places, arguments.places.sizes()),
      torch::stable::new_empty(arguments.scores, arguments.scores.sizes()),
      Tensor()};
  const int64_t owners = shape.batch * shape.heads;
  const int64_t rows = shape.queries *
                       static_cast<int64_t>(shape.levels.size()) *
                       shape.reference_dim;
  Tensor parts;
  if (shape.reference_dim != 0) {
    const Tensor& reference = arguments.reference;
    result.reference = torch::stable::new_empty(reference, reference.sizes());
    parts = torch::stable::new_empty(reference, {owners, rows});
  }
  const auto run = [&](auto types) {
    using T = typename decltype(types)::Value;
    using L = typename decltype(types)::Location;
    using C = Compute<T>;
    const auto quads = quad_levels<C>(shape);
    const Call<T, L> call = make_call<T, L>(shape, quads, values, arguments);
    const Kernels<T, L>& best = kernels<T, L>();
    const bool fused = shape.reference_dim != 0;
    const Gradients<T, L> gradients{
        grad.const_data_ptr<T>(),
        result.value.mutable_data_ptr<T>(),
        result.places.mutable_data_ptr<L>(),
        result.scores.mutable_data_ptr<L>(),
        fused ? parts.mutable_data_ptr<C>() : nullptr};
    // Each task holds one owner's gradients, and values where that leaves the
    // scratch memory of all tasks within one float copy of value.
    const bool pack_values = 2 * torch::stable::get_num_threads() <= owners;
    torch::stable::parallel_for(0, owners, 1, [&](int64_t begin, int64_t end) {
      best.backward(call, begin, end, pack_values, gradients);
    });
    if (fused) {
      sum_heads(
          parts.const_data_ptr<C>(),
          shape.batch,
          shape.heads,
          rows,
          result.reference.mutable_data_ptr<C>());
    }
  };
  dispatch_types(value.scalar_type(), arguments.places.scalar_type(), run);
  return result;
}

Arguments plain_arguments(const Tensor& locations, const Tensor& weights) {
  return {
      torch::stable::contiguous(locations),
      torch::stable::contiguous(weights),
      Tensor()};
}

Arguments fused_arguments(
    const Tensor& reference, const Tensor& offsets, const Tensor& logits) {
  return {
      torch::stable::contiguous(offsets),
      torch::stable::contiguous(logits),
      torch::stable::contiguous(reference)};
}

Tensor ms_deform_attn(
    const Tensor& value,
    Sizes spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Shape shape = check_inputs(
      value, spatial_shapes, sampling_locations, attention_weights);
  return forward(
      shape, value, plain_arguments(sampling_locations, attention_weights));
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_output,
    const Tensor& value,
    Sizes spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights,
    bool /*deterministic: always so*/) {
  const Shape shape = check_inputs(
      value, spatial_shapes, sampling_locations, attention_weights);
  const GradientTensors result = backward(
      shape,
      grad_output,
      value,
      plain_arguments(sampling_locations, attention_weights));
  return {result.value, result.places, result.scores};
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
  return forward(
      shape,
      value,
      fused_arguments(reference_points, sampling_offsets, attention_logits));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ms_deform_attn_fused_backward(
    const Tensor& grad_output,
    const Tensor& value,
    Sizes spatial_shapes,
    const Tensor& reference_points,
    const Tensor& sampling_offsets,
    const Tensor& attention_logits,
    bool /*deterministic: always so*/) {
  const Shape shape = check_fused_inputs(
      value,
      spatial_shapes,
      reference_points,
      sampling_offsets,
      attention_logits);
  const GradientTensors result = backward(
      shape,
      grad_output,
      value,
      fused_arguments(reference_points, sampling_offsets, attention_logits));
  return {result.value, result.reference, result.places, result.scores};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(panoptic_segformer, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&ms_deform_attn_backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&ms_deform_attn_fused));
  m.impl(
      "ms_deform_attn_fused_backward",
      TORCH_BOX(&ms_deform_attn_fused_backward));
}

}  // namespace panoptic_segformer
