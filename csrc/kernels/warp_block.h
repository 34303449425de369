// SPDX-License-Identifier: MIT
// What a kernel of cooperating threads is written against.
//
// Such a kernel is a class template over a block: warps of 32 lanes that share memory. On the GPU
// that is cuda::WarpBlock, where every thread runs the text once, for its own warp and lane; the
// tests have one for the CPU, which runs the warps of a phase one after the other and their lanes
// too. So the index arithmetic, the order of copies and barriers and what the tensor cores are fed
// is checked where there is no GPU. Between barriers no warp may rely on what another one does.
//
//   Block::Registers<T>              a T for each thread, which only that thread sees
//   block.shared<T>()                the shared memory of the block
//   block.warps(run)                 run(warp) for each warp
//   block.sync()                     barrier
//   block.commit(), block.wait<n>()  close a group of copies; wait for all but the last n groups
//
//   warp.index
//   warp.each(run)                   run(lane) for each lane
//   warp.sync()                      barrier of the lanes
//   warp.ballot(is)                  32 bits: is(lane) of each
//   warp.load_matrices(to, from)     ldmatrix: from(lane) points at 16 bytes in shared memory,
//                                    to(lane) at the 4 words that the lane receives
//   warp.load_transposed(to, from)   ldmatrix.trans, likewise
//   warp.multiply<S>(sums, a, b)     the product of kernels/fragments.h: sums(lane), a(lane) and
//                                    b(lane) point at 4 floats, 4 words and 2 words; b of float is
//                                    rounded to TF32, and a has to be
//
//   lane.index, lane.thread          in the warp, in the block
//   lane(registers)                  those of the thread
//   lane.copy(to, from, is_there)    starts copying 16 bytes to shared memory, zeros if not there
#pragma once

#include <cstdint>

namespace tsl {

constexpr int kWarpLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

}  // namespace tsl
