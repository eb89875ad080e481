// How a fuzz target says that a promise was broken. Runs in the fuzz targets.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace outbox::fuzz {

// libFuzzer takes an abort for a finding and keeps the input.
inline void must(bool promise, const char* what) {
    if (promise) return;
    std::fprintf(stderr, "broken: %s\n", what);
    std::abort();
}

}  // namespace outbox::fuzz
