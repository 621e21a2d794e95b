// How the work of multi-scale deformable attention is dealt to CUDA threads.
//
// A row is one image, query and head. It reads levels * points samples, each of
// them the 2 x 2 pixels around a position: four runs of C channels.
//
// Where the time goes, for the encoder on a picture of 800 x 1216 in float32 (3
// levels, 8 heads of 32 channels, 4 points) on an H200: what has to come from
// memory is 64 MB, 15 us at the 4.3 TB/s of a copy. But the corners are 0.98
// GB, some 100 us out of L2 and 34 us out of L1 (128 bytes per clock and
// multiprocessor). The limits are L2 and the number of load instructions:
//  - A block serves one head of a tile of neighbouring queries. They sample the
//    same pixels, which then come from L1 (a head's channels of one pixel share
//    no cache line with another head's in float32). Blocks that follow each
//    other serve the other heads of the same tile, whose locations and weights
//    lie beside it in memory.
//  - A group of threads, a power of two and at most a warp, serves a row. Each
//    holds as many channels as 16 bytes take: 8 threads for 32 floats, 4 for 32
//    halves. Where the channels don't divide so, a thread holds one at a time.
//  - The threads of a group prepare different samples, once per row, and share
//    them through shared memory: the loop over samples only loads and
//    multiplies and has two samples, 8 loads, under way.
#pragma once

#include "../ms_deform_attn.h"

#include <cuda_runtime.h>

namespace panoptic_segformer {

constexpr int kThreads = 256;  // of a block, at most
constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffff;
constexpr int kMaxLevels = 16;
constexpr int kLoadBytes = 16;  // the widest load of one thread

struct DeviceLevel {
  int height;
  int width;
  int start;   // of its first pixel in [0, S)
  int anchor;  // of its first anchor in [0, anchors), see Point
};

// Structs for kernels go to the device as arguments, which needs no copy.
struct DeviceShape {
  int64_t length;
  int heads;
  int channels;
  int stride;  // elements from a pixel to the next: heads * channels
  int queries;
  int points;
  int samples;  // of a row
  int reference_dim;
  int num_levels;
  int anchors;  // of all levels
  DeviceLevel levels[kMaxLevels];
};

// What a group of threads works on: a cell of a map, for one image and head.
struct Spot {
  bool exists;  // false in tiles that reach over the edge of their map
  int image;
  int head;
  int map;
  int x;
  int y;
  int cell;  // number of the cell in all maps
};

struct TiledMap {
  int height;
  int width;
  int start;   // number of its first cell
  int across;  // tiles side by side
  int tiles;
};

// Cuts maps into tiles. A block gets a tile of one head, a group one cell of
// it.
struct Tiling {
  int heads;
  int tiles;       // of all maps
  int group_log2;  // threads of a group
  int width_log2;  // cells of a tile side by side
  int height_log2;
  int num_maps;
  TiledMap maps[kMaxLevels];

  __device__ int group() const {
    return 1 << group_log2;
  }

  __device__ int lane() const {
    return threadIdx.x & (group() - 1);
  }

  __device__ int group_in_block() const {
    return threadIdx.x >> group_log2;
  }

  __device__ Spot find() const {
    Spot spot;
    spot.head = blockIdx.x % heads;
    const unsigned plane = blockIdx.x / heads;
    int tile = plane % tiles;
    spot.image = plane / tiles;
    spot.map = 0;
    for (; tile >= maps[spot.map].tiles; ++spot.map) {
      tile -= maps[spot.map].tiles;
    }
    const TiledMap& map = maps[spot.map];
    const int in_tile = group_in_block();
    const int tile_y = tile / map.across;
    const int tile_x = tile - tile_y * map.across;
    spot.x = (tile_x << width_log2) + (in_tile & ((1 << width_log2) - 1));
    spot.y = (tile_y << height_log2) + (in_tile >> width_log2);
    spot.exists = spot.x < map.width && spot.y < map.height;
    spot.cell = map.start + spot.y * map.width + spot.x;
    return spot;
  }
};

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T items[N];
};

template <int N, typename T>
__device__ inline Pack<T, N> load(const T* source) {
  return *reinterpret_cast<const Pack<T, N>*>(source);
}

template <typename C, typename T, int N>
__device__ inline Pack<C, N> expand(const Pack<T, N>& pack) {
  Pack<C, N> result;
  if constexpr (std::is_same_v<T, BFloat16> && N % 2 == 0) {
    // One instruction for each; by way of 16 bits it would be two.
    const auto* pairs = reinterpret_cast<const unsigned*>(pack.items);
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      result.items[i] = __uint_as_float(pairs[i / 2] << 16);
      result.items[i + 1] = __uint_as_float(pairs[i / 2] & 0xffff0000);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      result.items[i] = C(pack.items[i]);
    }
  }
  return result;
}

template <typename C, int N>
__device__ inline void add(
    Pack<C, N>& totals, C factor, const Pack<C, N>& items) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    totals.items[i] += factor * items.items[i];
  }
}

// Sums and maxima over the threads of a group, known to each of them. A warp's
// groups call these together, but for those that have left the kernel as one.
template <typename C>
__device__ inline C group_sum(C term, int group) {
  for (int distance = group / 2; distance > 0; distance /= 2) {
    term += __shfl_xor_sync(kWholeWarp, term, distance);
  }
  return term;
}

template <typename C>
__device__ inline C group_max(C term, int group) {
  for (int distance = group / 2; distance > 0; distance /= 2) {
    const C other = __shfl_xor_sync(kWholeWarp, term, distance);
    term = other > term ? other : term;
  }
  return term;
}

}  // namespace panoptic_segformer
