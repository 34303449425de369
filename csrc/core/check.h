// SPDX-License-Identifier: MIT
// How C++ refuses: TSL_CHECK for what a caller can get wrong, with an exception type that bind/
// translates. Message form: "<function>: <argument> must be <rule>, got <actual>. <what to do>".
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace tsl {

struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct TypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct MachineError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

}  // namespace tsl

#define TSL_CHECK(condition, Error, ...)                               \
  do {                                                                 \
    if (!(condition)) throw ::tsl::Error(::tsl::message(__VA_ARGS__)); \
  } while (false)
