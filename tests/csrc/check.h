// SPDX-License-Identifier: MIT
// A unit test program: TEST(name) { CHECK(...); CHECK_EQ(a, b); } as often as needed, then
// int main() { return check::run_tests(); }. A Note says which case a failure belongs to.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iomanip>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace check {

constexpr int kMaxPrinted = 25;

struct Test {
  const char* name;
  void (*run)();
};

struct State {
  std::vector<Test> tests;
  std::vector<std::string> notes;
  int failures = 0;
};

inline State& state() {
  static State state;
  return state;
}

struct Registration {
  Registration(const char* name, void (*run)()) { state().tests.push_back({name, run}); }
};

template <class T>
std::string text(const T& value) {
  std::ostringstream stream;
  stream << std::boolalpha << std::setprecision(17);
  if constexpr (std::is_enum_v<T> || (std::is_integral_v<T> && sizeof(T) == 1)) {
    stream << static_cast<int>(value);
  } else {
    stream << value;
  }
  return stream.str();
}

/// Lives as long as the case it describes.
class Note {
 public:
  template <class... Parts>
  explicit Note(const Parts&... parts) {
    std::ostringstream stream;
    (stream << ... << parts);
    state().notes.push_back(stream.str());
  }
  ~Note() { state().notes.pop_back(); }
  Note(const Note&) = delete;
  Note& operator=(const Note&) = delete;
};

inline void fail(const char* file, int line, const std::string& what) {
  if (++state().failures > kMaxPrinted) return;
  std::printf("%s:%d: %s", file, line, what.c_str());
  for (const std::string& note : state().notes) std::printf(" [%s]", note.c_str());
  std::printf("\n");
}

template <class A, class B>
void expect_equal(const A& a, const B& b, const char* expression, const char* file, int line) {
  if (!(a == b)) fail(file, line, std::string(expression) + ": " + text(a) + " and " + text(b));
}

template <class T>
void expect_equal(const std::vector<T>& a, const std::vector<T>& b, const char* expression,
                  const char* file, int line) {
  if (a.size() != b.size()) {
    const std::string sizes = text(a.size()) + " and " + text(b.size());
    return fail(file, line, std::string(expression) + ": sizes " + sizes);
  }
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    const std::string where = std::string(expression) + ", element " + text(i) + ": ";
    return fail(file, line, where + text(a[i]) + " and " + text(b[i]));
  }
}

inline int run_tests() {
  using Clock = std::chrono::steady_clock;
  for (const Test& test : state().tests) {
    const int before = state().failures;
    const Clock::time_point start = Clock::now();
    test.run();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    std::printf("%-6s %7.3f s  %s\n", state().failures == before ? "ok" : "FAILED", seconds,
                test.name);
    std::fflush(stdout);
  }
  std::printf("%zu tests, %d failed checks\n", state().tests.size(), state().failures);
  return state().tests.empty() || state().failures ? 1 : 0;
}

}  // namespace check

#define TEST(name)                                                     \
  static void name();                                                  \
  static const ::check::Registration name##_registration(#name, name); \
  static void name()

#define CHECK(condition) \
  ((condition) ? void(0) : ::check::fail(__FILE__, __LINE__, "CHECK(" #condition ")"))

#define CHECK_EQ(a, b) \
  ::check::expect_equal((a), (b), "CHECK_EQ(" #a ", " #b ")", __FILE__, __LINE__)
