#include "threads.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace avatar {
namespace {

int64_t process_id() {
#if defined(_WIN32)
    return 0;  // no fork
#else
    return static_cast<int64_t>(getpid());
#endif
}

class Pool {
public:
    // False when another thread's loop is running.
    bool run(int64_t items, int threads, void (*body)(void*, int64_t, int), void* context) {
        std::unique_lock<std::mutex> only(caller_, std::try_to_lock);
        if (!only.owns_lock()) return false;
        {
            std::lock_guard<std::mutex> lock(state_);
            while (static_cast<int>(workers_.size()) < threads - 1) workers_.emplace_back(&Pool::work, this);
            body_ = body;
            context_ = context;
            items_ = items;
            next_.store(0, std::memory_order_relaxed);
            wanted_ = threads - 1;
            next_worker_ = 1;
        }
        wake_.notify_all();
        drain(0);
        std::unique_lock<std::mutex> lock(state_);
        wanted_ = 0;  // a worker that has not woken by now is not needed
        done_.wait(lock, [this] { return running_ == 0; });
        return true;
    }

private:
    void drain(int worker) {
        for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < items_;) body_(context_, i, worker);
    }

    void work() {
        std::unique_lock<std::mutex> lock(state_);
        for (;;) {
            wake_.wait(lock, [this] { return wanted_ > 0; });
            --wanted_;
            ++running_;
            const int worker = next_worker_++;
            lock.unlock();
            drain(worker);
            lock.lock();
            if (--running_ == 0) done_.notify_one();
        }
    }

    std::mutex caller_, state_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    std::atomic<int64_t> next_{0};
    int64_t items_ = 0;
    void (*body_)(void*, int64_t, int) = nullptr;
    void* context_ = nullptr;
    int wanted_ = 0, running_ = 0, next_worker_ = 1;
};

// Never destroyed: workers may outlive static destructors. A forked child has none of its parent's threads and gets a
// pool of its own.
Pool& pool() {
    static std::mutex guard;
    static Pool* current = nullptr;
    static int64_t owner = -1;
    std::lock_guard<std::mutex> lock(guard);
    if (current == nullptr || owner != process_id()) {
        current = new Pool;
        owner = process_id();
    }
    return *current;
}

}  // namespace

void parallel_for(int64_t items, int threads, void (*body)(void*, int64_t, int), void* context) {
    if (threads > items) threads = static_cast<int>(items);
    if (threads > 1 && pool().run(items, threads, body, context)) return;
    for (int64_t i = 0; i < items; ++i) body(context, i, 0);
}

}  // namespace avatar
