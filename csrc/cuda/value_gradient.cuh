// The gradient of value without atomics: the same bits in every run.
//
// A sample adds a row's gradient to the four pixels around it, weighted. Here
// samples are sorted by their anchor, and whoever owns an anchor adds all of
// its samples up in registers, in the order of the samples, and then once to
// the four pixels. Anchors whose columns and rows are both even share no pixel,
// nor do the other three such sets: four launches, one after the other, need no
// atomics.
//
// Sums have the accuracy of plain sums in the type of the sums: for n terms an
// error of at most n * 2^-24 (2^-53 in double) of the sum of their absolute
// values. Atomics have the same bound, only another error in every run. Adding
// integers would be free of order too, but takes 8 bytes for each element and
// knows neither infinity nor NaN.
//
// It needs 4 bytes for each sample and 8 for each anchor of an image and head,
// and reads a gradient once for a sample, where atomics write it four times.
//
// A plane is one image and head, an entry the number of a sample in its plane:
// query * samples + (level, point).
#pragma once

#include "sampling.cuh"

namespace panoptic_segformer {

struct Buckets {
  int* counts;   // [planes, anchors]
  int* ends;     // [planes, anchors]: of the anchor's entries in its plane
  int* used;     // [planes]
  int* entries;  // [planes, queries * samples]
};

// One bucket per anchor. Anchors begin at -1.
__device__ inline int64_t find_bucket(
    const DeviceShape& shape, int64_t plane, int level, int column, int row) {
  const DeviceLevel& at = shape.levels[level];
  return plane * shape.anchors + at.anchor + (row + 1) * (at.width + 1) +
         column + 1;
}

// Which item of which plane is dealt to a thread, or to a warp of `per_block`.
struct Item {
  int64_t plane;
  int number;
  bool exists;

  __device__ Item(int items, int per_block, int in_block) {
    const int blocks = (items + per_block - 1) / per_block;  // of a plane
    const unsigned of_plane = blockIdx.x / blocks;
    plane = of_plane;
    const int64_t wide =
        int64_t(blockIdx.x - of_plane * blocks) * per_block + in_block;
    exists = wide < items;
    number = static_cast<int>(wide);
  }
};

// Gives every bucket a place in its plane's entries; which one does not matter.
static __global__ void __launch_bounds__(kThreads)
    place_kernel(int anchors, const Buckets buckets) {
  const Item anchor(anchors, kThreads, threadIdx.x);
  const int64_t bucket = anchor.plane * anchors + anchor.number;
  const int count = anchor.exists ? buckets.counts[bucket] : 0;
  const int lane = threadIdx.x % kWarp;
  int end = count;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int before = __shfl_up_sync(kWholeWarp, end, distance);
    end += lane >= distance ? before : 0;
  }
  int start = 0;
  if (lane == kWarp - 1) {
    start = atomicAdd(buckets.used + anchor.plane, end);
  }
  start = __shfl_sync(kWholeWarp, start, kWarp - 1);
  if (anchor.exists) {
    buckets.ends[bucket] = start + end - count;  // Filling moves it to the end.
  }
}

template <typename C, typename L>
__global__ void __launch_bounds__(kThreads) fill_kernel(
    const __grid_constant__ DeviceShape shape,
    const Samples<C, L> samples,
    const Buckets buckets) {
  const int entries = shape.queries * shape.samples;
  const Item entry(entries, kThreads, threadIdx.x);
  if (!entry.exists) {
    return;
  }
  const int query = entry.number / shape.samples;
  const int k = entry.number - query * shape.samples;
  const int level = k / shape.points;
  const Row row(shape, entry.plane, query);
  const Point<C> point =
      find_point(shape, samples, row.query, row.sample + k, level);
  if (point.touches) {
    const int64_t bucket =
        find_bucket(shape, entry.plane, level, point.column, point.row);
    const int slot = atomicAdd(buckets.ends + bucket, 1);
    buckets.entries[entry.plane * entries + slot] = entry.number;
  }
}

// Filling leaves the entries of a bucket in any order: a warp sorts them in
// place, by merging bitonic runs. All comparisons point upwards, so that what
// is missing from a power of two need not be there.
static __global__ void __launch_bounds__(kThreads) sort_kernel(
    const __grid_constant__ DeviceShape shape, const Buckets buckets) {
  const Item anchor(shape.anchors, kThreads / kWarp, threadIdx.x / kWarp);
  if (!anchor.exists) {
    return;
  }
  const int64_t bucket = anchor.plane * shape.anchors + anchor.number;
  const unsigned count = buckets.counts[bucket];
  int* entries = buckets.entries +
                 anchor.plane * shape.queries * shape.samples +
                 buckets.ends[bucket] - count;
  for (unsigned run = 1; run < count; run *= 2) {
    unsigned mask = 2 * run - 1;  // Mirrors the second run, then halves.
    for (unsigned distance = run; distance > 0; distance /= 2) {
      for (unsigned i = threadIdx.x % kWarp; i < count; i += kWarp) {
        const unsigned partner = i ^ mask;
        if (i < partner && partner < count && entries[partner] < entries[i]) {
          const int entry = entries[i];
          entries[i] = entries[partner];
          entries[partner] = entry;
        }
      }
      __syncwarp();
      mask = distance / 2;
    }
  }
}

// A sample as its bucket's owner needs it.
template <typename C>
struct alignas(16) Term {
  C x;
  C y;
  C weight;
  int query;
};

template <typename C, typename L>
__device__ Term<C> find_term(
    const DeviceShape& shape,
    const Samples<C, L>& samples,
    const Softmax<C>* softmax,
    int64_t plane,
    int level,
    int entry) {
  const int query = entry / shape.samples;
  const Row row(shape, plane, query);
  const int64_t sample = row.sample + entry - query * shape.samples;
  const Point<C> point = find_point(shape, samples, row.query, sample, level);
  const C score = C(samples.scores[sample]);
  const C weight = softmax == nullptr ? score : softmax[row.number](score);
  return {point.x, point.y, weight, query};
}

// The anchors of one set: every other column and row. `odd` has two bits, for
// columns and rows. `softmax` is null in the plain form.
template <typename T, typename L, int N>
__global__ void __launch_bounds__(kThreads, 2) add_kernel(
    const __grid_constant__ DeviceShape shape,
    const __grid_constant__ Tiling tiling,
    const int odd,
    const Samples<Compute<T>, L> samples,
    const Softmax<Compute<T>>* __restrict__ softmax,
    const T* __restrict__ grad_output,
    const Buckets buckets,
    Compute<T>* __restrict__ grad_value) {
  using C = Compute<T>;
  __shared__ Term<C> memory[kThreads];
  const int lane = tiling.lane(), group = tiling.group();
  Term<C>* terms = memory + threadIdx.x - lane;
  const Spot spot = tiling.find();
  const int64_t plane = int64_t(spot.image) * shape.heads + spot.head;
  const int column = 2 * spot.x + (odd & 1) - 1;
  const int row = 2 * spot.y + (odd >> 1) - 1;
  int count = 0;
  const int* entries = nullptr;
  if (spot.exists) {
    const int64_t bucket = find_bucket(shape, plane, spot.map, column, row);
    count = buckets.counts[bucket];
    entries = buckets.entries + plane * shape.queries * shape.samples +
              buckets.ends[bucket] - count;
  }
  const Row first_row(shape, plane, 0);
  grad_output += first_row.number * shape.channels;
  grad_value += first_row.value;
  for (int start = 0; start < shape.channels; start += group * N) {
    const int c = start + lane * N;
    const bool active = c < shape.channels;
    Pack<C, N> sums[4] = {};
    // The groups of a warp go on together as long as one has entries.
    for (int done = 0; __any_sync(kWholeWarp, done < count); done += group) {
      if (done + lane < count) {
        terms[lane] = find_term(
            shape, samples, softmax, plane, spot.map, entries[done + lane]);
      }
      __syncwarp();
      const int here = active ? min(group, count - done) : 0;
#pragma unroll 4
      for (int j = 0; j < here; ++j) {
        const Term<C> term = terms[j];
        const Pack<C, N> grad = expand<C>(
            load<N>(grad_output + int64_t(term.query) * shape.stride + c));
        const Weights<C> weights(term.x, term.y, term.weight);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          add(sums[k], weights.corners[k], grad);
        }
      }
      __syncwarp();
    }
    if (active && count > 0) {
      const DeviceLevel& level = shape.levels[spot.map];
      const unsigned touched = touched_corners(column, row, level);
      const int pixel = level.start + row * level.width + column;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (touched >> k & 1) {
          const int64_t at = pixel + k % 2 + k / 2 * level.width;
          auto* target =
              reinterpret_cast<Pack<C, N>*>(grad_value + at * shape.stride + c);
          Pack<C, N> total = *target;
          add(total, C(1), sums[k]);
          *target = total;
        }
      }
    }
  }
}

}  // namespace panoptic_segformer
