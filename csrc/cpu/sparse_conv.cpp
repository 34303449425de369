// SPDX-License-Identifier: MIT
#include "cpu/sparse_conv.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/memory.h"
#include "cpu/parallel.h"

namespace tsl::cpu {
namespace {

constexpr int64_t kMaxTileRows = 1024;
constexpr int64_t kMinTileRows = 64;
constexpr int64_t kWantedTiles = 16;
constexpr int kGradChannels = 64;                      // input channels of one weight gradient part
constexpr int64_t kGradCacheBytes = int64_t{1} << 20;  // of rows that a sweep of tiles may touch

/// Reads a stored weight as that of the convolution to compute.
template <class S>
class WeightReader {
 public:
  WeightReader(const S* weight, const WeightLayout& layout) : weight_(weight), layout_(layout) {
    columns_ = int64_t{layout.groups} * (layout.transposed ? layout.cin : layout.cout);
    rows_ = layout.transposed ? layout.cout : layout.cin;
  }

  /// Zero outside of the weight: that is the padding.
  S at(int64_t tap, int64_t group, int64_t ci, int64_t co) const {
    if (ci >= layout_.cin || co >= layout_.cout) return S{};
    const int64_t stored_tap = layout_.mirrored ? layout_.kernel_volume - 1 - tap : tap;
    const int64_t row = layout_.transposed ? co : ci;
    const int64_t column =
        layout_.transposed ? group * layout_.cin + ci : group * layout_.cout + co;
    return weight_[(stored_tap * rows_ + row) * columns_ + column];
  }

 private:
  const S* weight_;
  WeightLayout layout_;
  int64_t rows_;
  int64_t columns_;
};

/// Element of a packed weight, see WeightFormat.
template <class S, class A>
struct OneChannel {
  using Element = A;
  static Element read(const WeightReader<S>& weight, int64_t tap, int64_t group, int64_t row,
                      int64_t co) {
    return widened<A>(weight.at(tap, group, row, co));
  }
};
struct TwoChannels {
  using Element = uint32_t;
  static Element read(const WeightReader<BFloat16>& weight, int64_t tap, int64_t group, int64_t row,
                      int64_t co) {
    return weight.at(tap, group, 2 * row, co).bits |
           uint32_t{weight.at(tap, group, 2 * row + 1, co).bits} << 16;
  }
};

/// Packs the weight of every tap and group, panel after panel, in the order in which kernels read
/// it.
template <class Format, class S>
void pack_weight(const S* weight, const WeightLayout& layout, const Panels& panels, int rows,
                 typename Format::Element* packed, int threads) {
  const WeightReader<S> reader(weight, layout);
  const int64_t group_size = int64_t{rows} * panels.padded();
  parallel_tasks(int64_t{layout.kernel_volume} * layout.groups, threads, [&](int64_t task, int) {
    const int64_t tap = task / layout.groups;
    const int64_t group = task % layout.groups;
    typename Format::Element* to = packed + task * group_size;
    for (int panel = 0; panel < panels.count; ++panel) {
      const int first = panels.first(panel) * panels.lanes;
      const int last = first + panels.width(panel) * panels.lanes;
      for (int64_t row = 0; row < rows; ++row) {
        for (int co = first; co < last; ++co) *to++ = Format::read(reader, tap, group, row, co);
      }
    }
  });
}

/// Parts of a weight gradient that one worker computes.
struct GradShare {
  std::vector<WeightGradPart> parts;
  int64_t work = 0;  // pairs times channels
};

/// Cuts the gradient into parts and deals them out, the largest first, each to the share with the
/// least work. How it is cut does not change a bit of the result: every element belongs to one
/// part.
std::vector<GradShare> grad_shares(const PairTiles& pairs, int groups, int cin, int threads) {
  const int channels = threads <= 2 ? kGradChannels : kGradChannels / 2;
  std::vector<std::pair<int64_t, WeightGradPart>> parts;
  for (int tap = 0; tap < pairs.kernel_volume; ++tap) {
    const int64_t count = pairs.first_pair(pairs.num_tiles(), tap) - pairs.first_pair(0, tap);
    for (int group = 0; group < groups; ++group) {
      for (int begin = 0; begin < cin; begin += channels) {
        const int end = std::min(begin + channels, cin);
        parts.push_back({count * (end - begin), {tap, group, begin, end}});
      }
    }
  }
  std::stable_sort(parts.begin(), parts.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<GradShare> shares(
      static_cast<size_t>(worker_count(static_cast<int64_t>(parts.size()), threads)));
  for (const auto& [work, part] : parts) {
    const auto least =
        std::min_element(shares.begin(), shares.end(),
                         [](const GradShare& a, const GradShare& b) { return a.work < b.work; });
    least->parts.push_back(part);
    least->work += work;
  }
  return shares;
}

/// Per worker one scratch buffer of `count` numbers, allocated by the worker that first needs it.
template <class A>
class WorkerScratch {
 public:
  WorkerScratch(int workers, int64_t count)
      : count_(count), buffers_(static_cast<size_t>(workers)) {}

  A* of(int worker) {
    std::unique_ptr<Scratch<A>>& buffer = buffers_[static_cast<size_t>(worker)];
    if (!buffer) buffer = std::make_unique<Scratch<A>>(count_);
    return buffer->data();
  }

 private:
  int64_t count_;
  std::vector<std::unique_ptr<Scratch<A>>> buffers_;
};

}  // namespace

int64_t tile_rows_for(int64_t num_out) {
  int64_t rows = kMaxTileRows;
  while (rows > kMinTileRows && rows * kWantedTiles > num_out) rows /= 2;
  return rows;
}

template <class S, class A>
void sparse_conv(const ConvArguments<S>& arguments, const ConvKernels<S, A>& kernels, int threads) {
  const WeightLayout& layout = arguments.layout;
  const Panels panels = kernels.panels(layout.cout);
  const int64_t padded_out = int64_t{layout.groups} * panels.padded();
  const int rows = kernels.weight_format.rows(layout.cin);
  const Scratch<uint64_t> weight(
      int64_t{layout.kernel_volume} * rows * padded_out * static_cast<int64_t>(sizeof(A)) / 8 + 1);
  const auto pack = [&](auto format) {
    using Format = decltype(format);
    pack_weight<Format>(arguments.weight, layout, panels, rows,
                        reinterpret_cast<typename Format::Element*>(weight.data()), threads);
  };
  if constexpr (std::is_same_v<S, BFloat16>) {
    if (kernels.weight_format.channels_per_row == 2) pack(TwoChannels{});
  }
  if (kernels.weight_format.channels_per_row == 1) pack(OneChannel<S, A>{});
  const Scratch<A> bias(padded_out);
  for (int64_t c = 0; c < padded_out; ++c) {
    const int64_t group = c / panels.padded();
    const int64_t co = c % panels.padded();
    const bool is_real = arguments.bias && co < layout.cout;
    bias.data()[c] = is_real ? widened<A>(arguments.bias[group * layout.cout + co]) : A(0);
  }

  const PairTiles& pairs = arguments.pairs;
  const int64_t out_elements = pairs.num_out * layout.groups * layout.cout;
  advise_huge_pages(arguments.out, static_cast<size_t>(out_elements) * sizeof(S));
  const ConvTask<S, A> task{pairs,         arguments.feats,    arguments.out, arguments.residual,
                            weight.data(), bias.data(),        layout.groups, layout.cin,
                            layout.cout,   arguments.full_tap, arguments.relu};
  WorkerScratch<A> scratch(worker_count(pairs.num_tiles(), threads), kernels.conv_scratch(task));
  parallel_tasks(pairs.num_tiles(), threads, [&](int64_t tile, int worker) {
    kernels.conv_tile(task, tile, scratch.of(worker));
  });
}

template <class S, class A>
void sparse_conv_weight_grad(const WeightGradArguments<S, A>& arguments,
                             const ConvKernels<S, A>& kernels, int threads) {
  const PairTiles& pairs = arguments.pairs;
  const Panels panels = kernels.panels(arguments.cout);
  const int64_t padded_out = int64_t{arguments.groups} * panels.padded();
  const int64_t rows = int64_t{pairs.kernel_volume} * arguments.cin;
  const bool is_padded = panels.padded() != arguments.cout;
  const Scratch<A> padded(is_padded ? rows * padded_out : 0);
  A* const grad = is_padded ? padded.data() : arguments.grad_weight;
  std::fill(grad, grad + rows * padded_out, A(0));

  // A sweep goes over as many tiles as the cache holds rows of, but not fewer than pay for walking
  // over the whole gradient once more.
  const int64_t row_bytes = std::max(int64_t{arguments.groups} * (arguments.cin + arguments.cout) *
                                         static_cast<int64_t>(sizeof(S)),
                                     int64_t{1});
  const int64_t grad_bytes = rows * padded_out * static_cast<int64_t>(sizeof(A));
  const int64_t sweep_rows = std::max(kGradCacheBytes / row_bytes, grad_bytes / (2 * row_bytes));
  const int64_t sweep_tiles = std::max<int64_t>(sweep_rows / pairs.tile_rows, 1);
  const int64_t sweeps = (pairs.num_tiles() + sweep_tiles - 1) / sweep_tiles;

  const WeightGradTask<S, A> task{pairs,         arguments.feats,  arguments.grad_out,
                                  grad,          arguments.groups, arguments.cin,
                                  arguments.cout};
  // A worker keeps its share of the gradient through all sweeps, so the team meets only once.
  const std::vector<GradShare> shares =
      grad_shares(pairs, arguments.groups, arguments.cin, threads);
  const int64_t num_shares = static_cast<int64_t>(shares.size());
  WorkerScratch<A> scratch(worker_count(num_shares, threads),
                           kernels.weight_grad_scratch(arguments.cin, arguments.cout));
  parallel_tasks(num_shares, threads, [&](int64_t share, int worker) {
    for (int64_t sweep = 0; sweep < sweeps; ++sweep) {
      const int64_t first = sweep * sweep_tiles;
      const int64_t last = std::min(first + sweep_tiles, pairs.num_tiles());
      for (const WeightGradPart& part : shares[static_cast<size_t>(share)].parts) {
        kernels.weight_grad(task, part, first, last, scratch.of(worker));
      }
    }
  });
  if (!is_padded) return;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t group = 0; group < arguments.groups; ++group) {
      const A* const from = grad + row * padded_out + group * panels.padded();
      std::copy(from, from + arguments.cout,
                arguments.grad_weight + (row * arguments.groups + group) * arguments.cout);
    }
  }
}

template <class S>
void channelwise_conv(const ChannelwiseTask<S>& task, const SimdKernels& kernels, int threads,
                      const Epilogue<S>& epilogue) {
  const int64_t bytes = task.pairs.num_out * task.channels * static_cast<int64_t>(sizeof(S));
  advise_huge_pages(task.out, static_cast<size_t>(bytes));
  parallel_tasks(task.pairs.num_tiles(), threads, [&](int64_t tile, int) {
    if constexpr (std::is_same_v<S, float>) {
      kernels.channelwise_f32(task, tile);
    } else {
      kernels.channelwise_f64(task, tile);
    }
    if (!epilogue.residual && !epilogue.relu) return;
    const int64_t end = task.pairs.last_row(tile) * task.channels;
    for (int64_t i = task.pairs.first_row(tile) * task.channels; i < end; ++i) {
      S y = task.out[i];
      if (epilogue.residual) y += epilogue.residual[i];
      task.out[i] = epilogue.relu && y < S(0) ? S(0) : y;
    }
  });
}

template <class S>
void channelwise_weight_grad(const PairTiles& pairs, const S* feats, const S* grad_out,
                             int channels, S* grad_weight, int threads) {
  parallel_tasks(pairs.kernel_volume, threads, [&](int64_t tap_index, int) {
    const int tap = static_cast<int>(tap_index);
    S* const grad = grad_weight + tap_index * channels;
    std::fill(grad, grad + channels, S(0));
    const int64_t end = pairs.first_pair(pairs.num_tiles(), tap);
    std::vector<S> block(static_cast<size_t>(channels));
    for (int64_t first = pairs.first_pair(0, tap); first < end; first += kGradPairs) {
      std::fill(block.begin(), block.end(), S(0));
      for (int64_t p = first; p < std::min(first + kGradPairs, end); ++p) {
        const S* const x = feats + int64_t{pairs.in_index[p]} * channels;
        const S* const g = grad_out + int64_t{pairs.out_index[p]} * channels;
        for (int c = 0; c < channels; ++c) block[static_cast<size_t>(c)] += x[c] * g[c];
      }
      for (int c = 0; c < channels; ++c) grad[c] += block[static_cast<size_t>(c)];
    }
  });
}

#define TSL_INSTANTIATE(S, A)                                                              \
  template void sparse_conv<S, A>(const ConvArguments<S>&, const ConvKernels<S, A>&, int); \
  template void sparse_conv_weight_grad<S, A>(const WeightGradArguments<S, A>&,            \
                                              const ConvKernels<S, A>&, int);
TSL_INSTANTIATE(float, float)
TSL_INSTANTIATE(double, double)
TSL_INSTANTIATE(BFloat16, float)
TSL_INSTANTIATE(Float16, float)
#undef TSL_INSTANTIATE

#define TSL_INSTANTIATE(S)                                                              \
  template void channelwise_conv<S>(const ChannelwiseTask<S>&, const SimdKernels&, int, \
                                    const Epilogue<S>&);                                \
  template void channelwise_weight_grad<S>(const PairTiles&, const S*, const S*, int, S*, int);
TSL_INSTANTIATE(float)
TSL_INSTANTIATE(double)
#undef TSL_INSTANTIATE

}  // namespace tsl::cpu
