// CPU kernels, forward and backward.
//
// Every loop over channels is plain and free of branches, so that the compiler
// turns it into vector code for any processor. Results do not depend on the
// number of threads: every sum is taken by one owner, in one order.
#include "sampling.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

namespace panoptic_segformer {
namespace {

// About as many multiplications as make a task worth a thread.
constexpr int64_t kGrain = 32768;

int64_t grain_size(int64_t operations_per_item) {
  return std::max<int64_t>(
      1, kGrain / std::max<int64_t>(1, operations_per_item));
}

// output[0:N] = sum of the samples' weighted rows.
template <int N, typename T>
inline void sum_samples(
    const T* value,
    int64_t stride,
    const Sample<T>* samples,
    int64_t count,
    T* output) {
  T total[N] = {};
  for (int64_t i = 0; i < count; ++i) {
    const Sample<T>& sample = samples[i];
    const T* row = value + sample.position * stride;
    const T* right = row + sample.right * stride;
    const T* down = row + sample.down * stride;
    const T* opposite = down + sample.right * stride;
    const T w0 = sample.weight[0], w1 = sample.weight[1];
    const T w2 = sample.weight[2], w3 = sample.weight[3];
    for (int c = 0; c < N; ++c) {
      total[c] += w0 * row[c] + w1 * right[c] + w2 * down[c] + w3 * opposite[c];
    }
  }
  for (int c = 0; c < N; ++c) {
    output[c] = total[c];
  }
}

template <typename T>
void forward(const Shape& shape, const Inputs<T>& in, T* output) {
  const int64_t stride = shape.heads * shape.channels;
  const int64_t samples_per_head = shape.samples();
  const int64_t grain = grain_size(samples_per_head * stride);
  const auto body = [&](int64_t begin, int64_t end) {
    std::vector<Sample<T>> samples(samples_per_head);
    for (int64_t row = begin * shape.heads; row < end * shape.heads; ++row) {
      const int64_t image = row / (shape.queries * shape.heads);
      const T* value = in.value + image * shape.length * stride +
                       row % shape.heads * shape.channels;
      T* result = output + row * shape.channels;
      const int64_t count = gather_samples(
          shape,
          in.locations + row * samples_per_head * 2,
          in.weights + row * samples_per_head,
          samples.data());
      for_channel_blocks(shape.channels, [&](auto block, int64_t c) {
        sum_samples<block>(
            value + c, stride, samples.data(), count, result + c);
      });
    }
  };
  torch::stable::parallel_for(0, shape.batch * shape.queries, grain, body);
}

// dots[k] = product of a gradient with row k, over all channels.
template <typename T>
inline void multiply_rows(
    const T* grad, const T* const (&rows)[4], int64_t channels, T (&dots)[4]) {
  constexpr int kLanes = 8;  // Separate sums, or it would not be vector code.
  T lanes[4][kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    for (int k = 0; k < 4; ++k) {
      for (int i = 0; i < kLanes; ++i) {
        lanes[k][i] += grad[c + i] * rows[k][c + i];
      }
    }
  }
  for (int k = 0; k < 4; ++k) {
    for (int64_t rest = c; rest < channels; ++rest) {
      lanes[k][0] += grad[rest] * rows[k][rest];
    }
    dots[k] = 0;
    for (int i = 0; i < kLanes; ++i) {
      dots[k] += lanes[k][i];
    }
  }
}

template <typename T>
void backward_points(
    const Shape& shape,
    const Inputs<T>& in,
    const T* grad_output,
    T* grad_locations,
    T* grad_weights) {
  const int64_t stride = shape.heads * shape.channels;
  const int64_t samples_per_head = shape.samples();
  const int64_t grain = grain_size(samples_per_head * stride);
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * shape.heads; row < end * shape.heads; ++row) {
      const int64_t image = row / (shape.queries * shape.heads);
      const T* value = in.value + image * shape.length * stride +
                       row % shape.heads * shape.channels;
      const T* grad = grad_output + row * shape.channels;
      int64_t point = row * samples_per_head;
      for (const Level& level : shape.levels) {
        for (int64_t p = 0; p < shape.points; ++p, ++point) {
          const auto x = locate(in.locations[2 * point], level.width);
          const auto y = locate(in.locations[2 * point + 1], level.height);
          const int64_t first = level.start + y.first * level.width + x.first;
          const T* upper = value + first * stride;
          const T* lower = upper + y.step * level.width * stride;
          const T* rows[4] = {
              upper, upper + x.step * stride, lower, lower + x.step * stride};
          T dots[4] = {};
          if (x.inside && y.inside) {
            multiply_rows(grad, rows, shape.channels, dots);
          }
          const T weight = in.weights[point];
          const auto result = point_gradients(x, y, level, weight, dots);
          grad_locations[2 * point] = result.x;
          grad_locations[2 * point + 1] = result.y;
          grad_weights[point] = result.weight;
        }
      }
    }
  };
  torch::stable::parallel_for(0, shape.batch * shape.queries, grain, body);
}

// rows[...] += the samples' weights times grad[0:N].
template <int N, typename T>
inline void scatter_samples(
    const T* grad,
    int64_t stride,
    const Sample<T>* samples,
    int64_t count,
    T* rows) {
  T gradient[N];
  for (int c = 0; c < N; ++c) {
    gradient[c] = grad[c];
  }
  for (int64_t i = 0; i < count; ++i) {
    const Sample<T>& sample = samples[i];
    T* upper = rows + sample.position * stride;
    T* lower = upper + sample.down * stride;
    T* corners[4] = {
        upper,
        upper + sample.right * stride,
        lower,
        lower + sample.right * stride};
    for (int k = 0; k < 4; ++k) {
      for (int c = 0; c < N; ++c) {
        corners[k][c] += sample.weight[k] * gradient[c];
      }
    }
  }
}

// One task owns one image and head: it adds in the order of the queries into
// rows of its own, without atomics.
template <typename T>
void backward_value(
    const Shape& shape,
    const Inputs<T>& in,
    const T* grad_output,
    T* grad_value) {
  const int64_t channels = shape.channels, stride = shape.heads * channels;
  const int64_t samples_per_head = shape.samples();
  const auto body = [&](int64_t begin, int64_t end) {
    std::vector<Sample<T>> samples(samples_per_head);
    std::vector<T> rows(shape.length * channels);
    for (int64_t owner = begin; owner < end; ++owner) {
      const int64_t image = owner / shape.heads, head = owner % shape.heads;
      std::fill(rows.begin(), rows.end(), T(0));
      for (int64_t query = 0; query < shape.queries; ++query) {
        const int64_t row =
            (image * shape.queries + query) * shape.heads + head;
        const int64_t count = gather_samples(
            shape,
            in.locations + row * samples_per_head * 2,
            in.weights + row * samples_per_head,
            samples.data());
        for_channel_blocks(channels, [&](auto block, int64_t c) {
          scatter_samples<block>(
              grad_output + row * channels + c,
              channels,
              samples.data(),
              count,
              rows.data() + c);
        });
      }
      T* result = grad_value + image * shape.length * stride + head * channels;
      for (int64_t s = 0; s < shape.length; ++s) {
        std::copy_n(&rows[s * channels], channels, result + s * stride);
      }
    }
  };
  torch::stable::parallel_for(0, shape.batch * shape.heads, 1, body);
}

// The kernels know no half precision: torch converts whole tensors by vector
// code for the processor at hand, a loop here would convert number by number.
Tensor prepare(const Tensor& tensor) {
  return torch::stable::contiguous(
      torch::stable::to(tensor, compute_type(tensor.scalar_type())));
}

// Calls run(T{}) for the type of prepared tensors.
template <typename F>
void dispatch_type(ScalarType type, const F& run) {
  type == ScalarType::Double ? run(double{}) : run(float{});
}

Tensor ms_deform_attn(
    const Tensor& value,
    const Tensor& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Shape shape = check_inputs(
      value, spatial_shapes, sampling_locations, attention_weights);
  const Tensor values = prepare(value);
  const Tensor locations = prepare(sampling_locations);
  const Tensor weights = prepare(attention_weights);
  Tensor output = torch::stable::new_empty(
      values, {shape.batch, shape.queries, shape.heads * shape.channels});
  dispatch_type(values.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> inputs(values, locations, weights);
    forward(shape, inputs, output.mutable_data_ptr<T>());
  });
  return torch::stable::to(output, value.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_output,
    const Tensor& value,
    const Tensor& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Shape shape = check_inputs(
      value, spatial_shapes, sampling_locations, attention_weights);
  check_grad_output(grad_output, value, shape);
  const Tensor grad = prepare(grad_output);
  const Tensor values = prepare(value);
  const Tensor locations = prepare(sampling_locations);
  const Tensor weights = prepare(attention_weights);
  Tensor grad_value = torch::stable::new_empty(values, values.sizes());
  Tensor grad_locations =
      torch::stable::new_empty(locations, locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(weights, weights.sizes());
  dispatch_type(values.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> inputs(values, locations, weights);
    const T* grads = grad.const_data_ptr<T>();
    backward_points(
        shape,
        inputs,
        grads,
        grad_locations.mutable_data_ptr<T>(),
        grad_weights.mutable_data_ptr<T>());
    backward_value(shape, inputs, grads, grad_value.mutable_data_ptr<T>());
  });
  const ScalarType location_type = sampling_locations.scalar_type();
  return {
      torch::stable::to(grad_value, value.scalar_type()),
      torch::stable::to(grad_locations, location_type),
      torch::stable::to(grad_weights, location_type)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(panoptic_segformer, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&ms_deform_attn_backward));
}

}  // namespace panoptic_segformer
