// SPDX-License-Identifier: MIT
// Which sites a convolution writes, on the GPU: the passes of kernels/sites.h, launched on the
// caller's stream.
#pragma once

#include <cstdint>
#include <functional>

#include "cuda/call.h"
#include "kernels/sites.h"

namespace tsl::cuda {

/// Called with the number of sites, once it is known; returns where they go.
using AllocateSites = std::function<Coord*(int64_t sites)>;

/// False if a site lies out of range. Waits for the device once.
bool find_sites(const Call& call, const SiteProposals& proposals, int64_t count,
                const AllocateSites& allocate);

}  // namespace tsl::cuda
