// Host side of the kernels: see launch.cuh.
#include "launch.cuh"

#include <algorithm>

namespace panoptic_segformer {
namespace {

int log2_at_least(int64_t number) {
  int result = 0;
  while (int64_t(1) << result < number) {
    ++result;
  }
  return result;
}

}  // namespace

void check_limit(const char* name, int64_t seen, int64_t limit) {
  STD_TORCH_CHECK(
      seen <= limit,
      "ms_deform_attn on a CUDA device takes ",
      name,
      " up to ",
      limit,
      ", got ",
      seen,
      ": split the inputs, or compute on the CPU");
}
DeviceShape device_shape(const Shape& shape) {
  const int64_t num_levels = shape.levels.size();
  check_limit("levels", num_levels, kMaxLevels);
  check_limit("pixels of an image", shape.length, kMaxLength);
  check_limit("heads * channels", shape.heads * shape.channels, INT32_MAX);
  check_limit("queries of an image", shape.queries, INT32_MAX);
  check_limit("points", shape.points, INT32_MAX / kMaxLevels);
  DeviceShape result{};
  result.length = shape.length;
  result.heads = shape.heads;
  result.channels = shape.channels;
  result.stride = shape.heads * shape.channels;
  result.queries = shape.queries;
  result.points = shape.points;
  result.samples = num_levels * shape.points;
  result.reference_dim = shape.reference_dim;
  result.num_levels = num_levels;
  for (int64_t i = 0; i < num_levels; ++i) {
    const Level& level = shape.levels[i];
    result.levels[i] = {
        static_cast<int>(level.height),
        static_cast<int>(level.width),
        static_cast<int>(level.start),
        result.anchors};
    result.anchors += (level.height + 1) * (level.width + 1);
  }
  return result;
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

Tensor packed(const Tensor& tensor) {
  const Tensor result = torch::stable::contiguous(tensor);
  const auto address = reinterpret_cast<uintptr_t>(result.const_data_ptr());
  return address % kLoadBytes == 0 ? result : torch::stable::clone(result);
}

Inputs::Inputs(
    const Tensor& value,
    const Tensor* reference_points,
    const Tensor& places,
    const Tensor& scores)
    : value(packed(value)),
      places(packed(places)),
      scores(packed(scores)),
      reference(reference_points ? packed(*reference_points) : this->scores),
      fused(reference_points != nullptr) {}

std::vector<Map> query_maps(const Shape& shape) {
  if (shape.queries != shape.length) {
    return {{1, shape.queries, 0}};
  }
  std::vector<Map> maps;
  for (const Level& level : shape.levels) {
    maps.push_back({level.height, level.width, level.start});
  }
  return maps;
}

Launch plan(
    const Shape& shape,
    const std::vector<Map>& maps,
    int width,
    int64_t bytes_per_group) {
  check_limit(
      "bytes of prepared samples (they grow with levels * points)",
      bytes_per_group,
      kSharedBytes);
  check_limit(
      "elements of an image, counted in loads",
      shape.length * shape.heads * shape.channels / width,
      UINT32_MAX);
  Launch launch{};
  Tiling& tiling = launch.tiling;
  const int64_t packs = (shape.channels + width - 1) / width;
  tiling.group_log2 = std::min(log2_at_least(packs), log2_at_least(kWarp));
  launch.threads = kThreads;
  const auto shared_bytes = [&] {
    return (launch.threads >> tiling.group_log2) * bytes_per_group;
  };
  while (shared_bytes() > kSharedBytes && launch.threads > kWarp) {
    launch.threads /= 2;
  }
  while (shared_bytes() > kSharedBytes) {
    ++tiling.group_log2;
  }
  launch.shared_bytes = shared_bytes();

  // As square as can be, but for lines.
  const int cells_log2 = log2_at_least(launch.threads) - tiling.group_log2;
  const bool lines = std::all_of(
      maps.begin(), maps.end(), [](const Map& map) { return map.height == 1; });
  tiling.width_log2 = lines ? cells_log2 : (cells_log2 + 1) / 2;
  tiling.height_log2 = cells_log2 - tiling.width_log2;
  tiling.heads = shape.heads;
  tiling.num_maps = maps.size();
  for (size_t i = 0; i < maps.size(); ++i) {
    const Map& map = maps[i];
    const auto tiles = [](int64_t size, int log2) {
      return static_cast<int>((size + (1 << log2) - 1) >> log2);
    };
    const int across = tiles(map.width, tiling.width_log2);
    const int down = tiles(map.height, tiling.height_log2);
    tiling.maps[i] = {
        static_cast<int>(map.height),
        static_cast<int>(map.width),
        static_cast<int>(map.start),
        across,
        across * down};
    tiling.tiles += across * down;
  }
  const int64_t blocks = shape.batch * shape.heads * tiling.tiles;
  check_limit("blocks (images * heads * tiles of queries)", blocks, INT32_MAX);
  launch.blocks = static_cast<unsigned>(blocks);
  return launch;
}

}  // namespace panoptic_segformer
