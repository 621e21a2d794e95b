// Operator schemas, input checks and the Python module.
//
// Fake kernels, autograd and autocast are registered in Python, see
// projects/panoptic_segformer/ops/ms_deform_attn.py.
#include "ms_deform_attn.h"

#include <Python.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <sstream>
#include <string>

namespace panoptic_segformer {
namespace {

using Sizes = std::vector<int64_t>;

Sizes sizes_of(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

std::string show(const Sizes& sizes) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < sizes.size(); ++i) {
    text << (i ? ", " : "") << sizes[i];
  }
  text << ']';
  return text.str();
}

std::string show(const std::vector<Level>& levels) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < levels.size(); ++i) {
    text << (i ? ", (" : "(") << levels[i].height << ", " << levels[i].width
         << ')';
  }
  text << ']';
  return text.str();
}

std::string show(const torch::stable::Device& device) {
  return device.is_cpu() ? "cpu" : "device " + std::to_string(device.index());
}

std::vector<Level> read_levels(const Tensor& spatial_shapes, int64_t length) {
  STD_TORCH_CHECK(
      spatial_shapes.scalar_type() == ScalarType::Long &&
          spatial_shapes.dim() == 2 && spatial_shapes.size(1) == 2,
      "spatial_shapes must be int64 [levels, 2] with rows (height, width), "
      "got ",
      spatial_shapes.scalar_type(),
      " of shape ",
      show(sizes_of(spatial_shapes)));
  const Tensor on_cpu = torch::stable::contiguous(
      torch::stable::to(
          spatial_shapes,
          torch::stable::Device(torch::headeronly::DeviceType::CPU)));
  const int64_t* pairs = on_cpu.const_data_ptr<int64_t>();
  std::vector<Level> levels;
  int64_t total = 0;
  bool fits = true;
  for (int64_t i = 0; i < spatial_shapes.size(0); ++i) {
    const int64_t height = pairs[2 * i], width = pairs[2 * i + 1];
    STD_TORCH_CHECK(
        height >= 1 && width >= 1,
        "every level needs a height and width of at least 1, got (",
        height,
        ", ",
        width,
        ") for level ",
        i);
    levels.push_back({height, width, total});
    fits = fits && width <= (length - total) / height;
    total += fits ? height * width : 0;  // Where it fits it can't overflow.
  }
  STD_TORCH_CHECK(
      fits && total == length,
      "spatial_shapes ",
      show(levels),
      " (height, width) do not sum to the length of value, ",
      length,
      ": give the sizes of the maps that value was flattened from, in the same "
      "order");
  return levels;
}

void check_types(
    const Tensor& value,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  STD_TORCH_CHECK(
      value.device() == sampling_locations.device() &&
          value.device() == attention_weights.device(),
      "value, sampling_locations and attention_weights must be on one device, "
      "got ",
      show(value.device()),
      ", ",
      show(sampling_locations.device()),
      " and ",
      show(attention_weights.device()));
  const ScalarType type = value.scalar_type();
  const ScalarType location_type = sampling_locations.scalar_type();
  const bool half = type == ScalarType::Half || type == ScalarType::BFloat16;
  const bool known =
      half || type == ScalarType::Float || type == ScalarType::Double;
  STD_TORCH_CHECK(
      known && location_type == attention_weights.scalar_type() &&
          (location_type == type ||
           (half && location_type == ScalarType::Float)),
      "sampling_locations and attention_weights must share one dtype, that of "
      "value or, for half precision values, float32; got value ",
      type,
      ", sampling_locations ",
      location_type,
      ", attention_weights ",
      attention_weights.scalar_type());
}

}  // namespace

Shape check_inputs(
    const Tensor& value,
    const Tensor& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Sizes values = sizes_of(value),
              locations = sizes_of(sampling_locations);
  STD_TORCH_CHECK(
      values.size() == 4,
      "value must be [batch, length, heads, channels], got shape ",
      show(values));
  STD_TORCH_CHECK(
      locations.size() == 6,
      "sampling_locations must be [batch, queries, heads, levels, points, 2], "
      "got shape ",
      show(locations));
  const std::vector<Level> levels = read_levels(spatial_shapes, values[1]);
  const int64_t num_levels = static_cast<int64_t>(levels.size());
  Sizes expected{values[0], locations[1], values[2], num_levels, locations[4]};
  STD_TORCH_CHECK(
      sizes_of(attention_weights) == expected,
      "attention_weights must have shape ",
      show(expected),
      " to fit value ",
      show(values),
      ", ",
      num_levels,
      " levels and sampling_locations ",
      show(locations),
      ", got ",
      show(sizes_of(attention_weights)));
  expected.push_back(2);
  STD_TORCH_CHECK(
      locations == expected,
      "sampling_locations must have shape ",
      show(expected),
      " to fit value ",
      show(values),
      " and ",
      num_levels,
      " levels, got ",
      show(locations));
  check_types(value, sampling_locations, attention_weights);
  return {
      values[0],
      values[1],
      values[2],
      values[3],
      locations[1],
      locations[4],
      levels};
}

void check_grad_output(
    const Tensor& grad_output, const Tensor& value, const Shape& shape) {
  const Sizes expected{
      shape.batch, shape.queries, shape.heads * shape.channels};
  STD_TORCH_CHECK(
      sizes_of(grad_output) == expected &&
          grad_output.scalar_type() == value.scalar_type() &&
          grad_output.device() == value.device(),
      "grad_output must be ",
      value.scalar_type(),
      " ",
      show(expected),
      " on value's device, got ",
      grad_output.scalar_type(),
      " ",
      show(sizes_of(grad_output)),
      " on ",
      show(grad_output.device()));
}

STABLE_TORCH_LIBRARY(panoptic_segformer, m) {
  m.def(
      "ms_deform_attn(Tensor value, Tensor spatial_shapes, "
      "Tensor sampling_locations, Tensor attention_weights) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, "
      "Tensor spatial_shapes, Tensor sampling_locations, "
      "Tensor attention_weights) -> (Tensor, Tensor, Tensor)");
}

}  // namespace panoptic_segformer

// The module only exists to be imported, which loads the registrations, and to
// tell which kernels it was built with.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      .m_base = PyModuleDef_HEAD_INIT, .m_name = "_C", .m_size = -1};
#ifdef USE_CUDA
  const long with_cuda = 1;
#else
  const long with_cuda = 0;
#endif
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr &&
      PyModule_AddIntConstant(module, "WITH_CUDA", with_cuda) != 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
