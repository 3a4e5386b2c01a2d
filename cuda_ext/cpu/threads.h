// A process-wide pool of worker threads for short loops. Workers sleep between loops: the machine is shared.
#pragma once
#include <cstdint>

namespace avatar {

// Calls body(context, item, worker) for every item in 0..items-1 on up to `threads` threads (the caller is one of them),
// worker < threads. Items are handed out in order; which worker gets which is not fixed, so a body writes only to what
// its item owns. If the pool is busy with another caller's loop, the caller does all items itself.
void parallel_for(int64_t items, int threads, void (*body)(void* context, int64_t item, int worker), void* context);

template <class F> void parallel_for(int64_t items, int threads, F&& f) {
    parallel_for(items, threads, [](void* c, int64_t i, int w) { (*static_cast<F*>(c))(i, w); }, &f);
}

}  // namespace avatar
