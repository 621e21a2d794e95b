// Operator schemas, input checks and the Python module.
//
// Fake kernels, autograd and autocast are registered in Python, see
// projects/panoptic_segformer/ops/registration.py.
#include "ms_deform_attn.h"

#include <Python.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace panoptic_segformer {
namespace {

using panoptic_segformer::show;  // Beside those of this file.

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

std::vector<Level> read_levels(const Sizes& spatial_shapes, int64_t length) {
  STD_TORCH_CHECK(
      spatial_shapes.size() % 2 == 0,
      "spatial_shapes must hold (height, width) of each level, an even count "
      "of numbers, got ",
      spatial_shapes.size());
  STD_TORCH_CHECK(
      length <= INT32_MAX,
      "value may hold at most ",
      INT32_MAX,
      " positions per image, got ",
      length);
  std::vector<Level> levels;
  int64_t total = 0;
  bool fits = true;
  for (size_t i = 0; i < spatial_shapes.size(); i += 2) {
    const int64_t height = spatial_shapes[i], width = spatial_shapes[i + 1];
    STD_TORCH_CHECK(
        height >= 1 && width >= 1 && height <= kMaxSide && width <= kMaxSide,
        "every level needs a height and width of at least 1 and at most ",
        kMaxSide,
        ", got (",
        height,
        ", ",
        width,
        ") for level ",
        i / 2);
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

// A tensor argument beside value, by the name that messages give it.
struct Argument {
  const char* name;
  const Tensor& tensor;
};

void check_sizes(
    const Argument& argument,
    const Sizes& expected,
    const Sizes& values,
    int64_t num_levels) {
  STD_TORCH_CHECK(
      sizes_of(argument.tensor) == expected,
      argument.name,
      " must have shape ",
      show(expected),
      " to fit value ",
      show(values),
      " and ",
      num_levels,
      " levels, got ",
      show(sizes_of(argument.tensor)));
}

void check_device(const Tensor& value, const Argument& argument) {
  STD_TORCH_CHECK(
      value.device() == argument.tensor.device(),
      "all tensors must be on one device, got value on ",
      show(value.device()),
      " and ",
      argument.name,
      " on ",
      show(argument.tensor.device()));
}

// What both forms check alike: `places` [B, Q, M, L, P, 2] and `scores`
// [B, Q, M, L, P].
Shape check_common(
    const Tensor& value,
    const Sizes& spatial_shapes,
    const Argument& places,
    const Argument& scores) {
  const Sizes values = sizes_of(value), grid = sizes_of(places.tensor);
  STD_TORCH_CHECK(
      values.size() == 4,
      "value must be [batch, length, heads, channels], got shape ",
      show(values));
  STD_TORCH_CHECK(
      grid.size() == 6,
      places.name,
      " must be [batch, queries, heads, levels, points, 2], got shape ",
      show(grid));
  const std::vector<Level> levels = read_levels(spatial_shapes, values[1]);
  const int64_t num_levels = static_cast<int64_t>(levels.size());
  Sizes expected{values[0], grid[1], values[2], num_levels, grid[4]};
  check_sizes(scores, expected, values, num_levels);
  expected.push_back(2);
  check_sizes(places, expected, values, num_levels);
  check_device(value, places);
  check_device(value, scores);
  const ScalarType type = value.scalar_type();
  const ScalarType place_type = places.tensor.scalar_type();
  const bool half = type == ScalarType::Half || type == ScalarType::BFloat16;
  const bool known =
      half || type == ScalarType::Float || type == ScalarType::Double;
  STD_TORCH_CHECK(
      known && place_type == scores.tensor.scalar_type() &&
          (place_type == type || (half && place_type == ScalarType::Float)),
      places.name,
      " and ",
      scores.name,
      " must share one dtype, that of value or, for half precision values, "
      "float32; got value ",
      type,
      ", ",
      places.name,
      " ",
      place_type,
      ", ",
      scores.name,
      " ",
      scores.tensor.scalar_type());
  return {
      values[0],
      values[1],
      values[2],
      values[3],
      grid[1],
      grid[4],
      /*reference_dim=*/0,
      levels};
}

}  // namespace

Shape check_inputs(
    const Tensor& value,
    const Sizes& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  return check_common(
      value,
      spatial_shapes,
      {"sampling_locations", sampling_locations},
      {"attention_weights", attention_weights});
}

Shape check_fused_inputs(
    const Tensor& value,
    const Sizes& spatial_shapes,
    const Tensor& reference_points,
    const Tensor& sampling_offsets,
    const Tensor& attention_logits) {
  Shape shape = check_common(
      value,
      spatial_shapes,
      {"sampling_offsets", sampling_offsets},
      {"attention_logits", attention_logits});
  const Argument reference{"reference_points", reference_points};
  const Sizes sizes = sizes_of(reference_points);
  const int64_t num_levels = static_cast<int64_t>(shape.levels.size());
  shape.reference_dim = sizes.size() == 4 && sizes[3] == 4 ? 4 : 2;
  check_sizes(
      reference,
      {shape.batch, shape.queries, num_levels, shape.reference_dim},
      sizes_of(value),
      num_levels);
  check_device(value, reference);
  const ScalarType expected = compute_type(value.scalar_type());
  STD_TORCH_CHECK(
      reference_points.scalar_type() == expected,
      "reference_points must be ",
      expected,
      " beside a value of ",
      value.scalar_type(),
      ", got ",
      reference_points.scalar_type());
  return shape;
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

// The levels are a list of numbers, not a tensor: no kernel waits for a device
// to read them, and a traced graph holds what a decomposition has to know.
STABLE_TORCH_LIBRARY(panoptic_segformer, m) {
  m.def(
      "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, "
      "Tensor sampling_locations, Tensor attention_weights) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, "
      "SymInt[] spatial_shapes, Tensor sampling_locations, "
      "Tensor attention_weights, bool deterministic) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "ms_deform_attn_fused(Tensor value, SymInt[] spatial_shapes, "
      "Tensor reference_points, Tensor sampling_offsets, "
      "Tensor attention_logits) -> Tensor");
  m.def(
      "ms_deform_attn_fused_backward(Tensor grad_output, Tensor value, "
      "SymInt[] spatial_shapes, Tensor reference_points, "
      "Tensor sampling_offsets, Tensor attention_logits, bool deterministic) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
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
