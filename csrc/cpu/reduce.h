// SPDX-License-Identifier: MIT
// Reductions over rows on the CPU: windowed maximum, segments (points of a voxel, voxels of a batch
// element), weighted sums of a few rows (interpolation), whole columns (norms, bias gradients).
// Every output is written by one thread, in a fixed order.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/simd/kernels.h"
#include "kernels/columns.h"
#include "kernels/segment_reduce.h"

namespace tsl::cpu {

/// out[o, c] = max over pairs of x[in, c]; argmax the input row of the (first) maximum. NaN wins,
/// as in torch. Rows without pairs: 0 and -1.
template <class T>
void max_pool(const PairTiles& pairs, const T* feats, int64_t channels, T* out, int32_t* argmax,
              int threads);

/// grad_in[i, c] = sum of grad_out[o, c] over the pairs (i, o) with argmax[o, c] = i. `pairs` are
/// the transposed pairs: their outputs are the pool's inputs.
template <class T>
void max_pool_backward(const PairTiles& pairs, const T* grad_out, const int32_t* argmax,
                       int64_t channels, T* grad_in, int threads);

/// Rows order[ptr[s]..ptr[s + 1]) are reduced into out[s]; `argmax` only for kMax. Empty segments
/// give 0 and -1.
template <class T>
void segment_reduce(const T* feats, const int64_t* order, const int64_t* ptr, int64_t segments,
                    int64_t channels, Reduce reduce, T* out, int64_t* argmax, int threads);

/// out[i] = sum over j of weight[i, j] * feats[index[i, j]]; index -1 is skipped.
template <class T>
void interpolate(const T* feats, const int64_t* index, const T* weight, int64_t count,
                 int64_t terms, int64_t channels, T* out, int threads);

/// The adjoint: grad_feats[r] = sum over (i, j) with index[i, j] = r of weight[i, j] * grad_out[i].
template <class T>
void interpolate_backward(const T* grad_out, const int64_t* index, const T* weight, int64_t count,
                          int64_t terms, int64_t rows, int64_t channels, T* grad_feats,
                          int threads);

// Whole columns, of float, double or bfloat16.

/// sum[c] = sum over rows of a[r, c]; product[c] = sum over rows of a[r, c] * b[r, c] (b and
/// product may both be null). Summed in double, over blocks of rows that do not depend on the
/// threads.
template <class S>
void column_sums(const S* a, const S* b, int64_t rows, int64_t channels, double* sum,
                 double* product, int threads);

/// Mean and biased variance of every column; zeros where there are no rows.
template <class S>
void column_moments(const S* feats, int64_t rows, int64_t channels, double* mean, double* variance,
                    int threads);

/// See kernels/columns.h.
template <class S>
void scale_shift(const ScaleShift<S>& task, int threads);

}  // namespace tsl::cpu
