// The CPU kernels as the operator sees them: plain data in, one table of
// functions per instruction set.
#pragma once

#include "../ms_deform_attn.h"

#include <cstddef>
#include <cstring>
#include <new>

namespace panoptic_segformer {

// The kernels prepare four samples at a time.
constexpr int kQuad = 4;

// The levels that four neighbouring samples of a query and head read.
template <typename C>
struct QuadLevels {
  C width[kQuad];
  C height[kQuad];
  int32_t columns[kQuad];
  int32_t start[kQuad];
  int32_t level[kQuad];
};

// Inputs of one call: contiguous arrays and their sizes.
template <typename T, typename L>
struct Call {
  using C = Compute<T>;
  int64_t length;
  int64_t heads;
  int64_t channels;
  int64_t queries;
  int64_t num_levels;
  int64_t points;
  int64_t samples;             // num_levels * points
  int64_t reference_dim;       // 0 in the plain form
  const QuadLevels<C>* quads;  // one for every four samples
  const T* value;
  const C* reference;  // fused form only
  const L* places;     // sampling_locations, or sampling_offsets
  const L* scores;     // attention_weights, or attention_logits
};

template <typename T, typename L>
struct Gradients {
  using C = Compute<T>;
  const T* output;
  T* value;
  L* places;
  L* scores;
  C* reference;  // [B, M, Q, L, reference_dim]: each head's own part
};

// An owner is one image and head. Owners are counted by image, then head; rows
// by owner, then query.
template <typename T, typename L>
struct Kernels {
  // Writes the output of rows [begin, end).
  void (*forward)(
      const Call<T, L>& call, int64_t begin, int64_t end, T* output);
  // Writes all gradients of owners [begin, end). Packing reads values faster
  // and takes the room of one owner's values.
  void (*backward)(
      const Call<T, L>& call,
      int64_t begin,
      int64_t end,
      bool pack_values,
      const Gradients<T, L>& gradients);
};

// The kernels for the best instruction set of this processor.
template <typename T, typename L>
const Kernels<T, L>& kernels();

// Memory of one task, on a cache line's border, not initialised.
template <typename E>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(
            static_cast<E*>(
                ::operator new(count * sizeof(E), std::align_val_t(64)))) {}
  ~Scratch() {
    ::operator delete(data_, std::align_val_t(64));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  E* data() {
    return data_;
  }

 private:
  E* data_;
};

}  // namespace panoptic_segformer
