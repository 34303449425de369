// SPDX-License-Identifier: MIT
#include "cuda/sites.h"

#include "cuda/executor.cuh"

namespace tsl::cuda {

bool find_sites(const Call& call, const SiteProposals& proposals, int64_t count,
                const AllocateSites& allocate) {
  Executor executor(call);
  return tsl::find_sites(executor, proposals, count, allocate);
}

}  // namespace tsl::cuda
