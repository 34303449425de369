// SPDX-License-Identifier: MIT
// What a call says when it refuses its arguments.
#pragma once

#include <string>

#include "core/check.h"

namespace tsl::test {

/// The message, or nothing where run() refuses nothing.
template <class Run>
std::string refusal(const Run& run) {
  try {
    run();
  } catch (const ValueError& error) {
    return error.what();
  }
  return "";
}

inline bool says(const std::string& text, const char* words) {
  return text.find(words) != std::string::npos;
}

}  // namespace tsl::test
