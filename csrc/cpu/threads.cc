// The pool behind parallel_for; see threads.h.
#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "bitcompress/bits.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace bc {
namespace {

constexpr int kMostHelpers = 255;

struct Job {
  Body body;
  void* context;
  int64_t tasks;
  int helpers;                   // how many more helpers may still join
  int next_slot = 1;             // slot 0 is the caller
  int inside = 0;                // helpers that have joined and not left
  std::atomic<int64_t> next{0};  // the next task to claim

  void work(int slot) {
    for (int64_t task = next.fetch_add(1, std::memory_order_relaxed); task < tasks;
         task = next.fetch_add(1, std::memory_order_relaxed)) {
      body(context, task, slot);
    }
  }
};

class Pool {
 public:
  void run(Job& job) {
    const bool one_helper = job.helpers == 1;  // helpers change the job from here on
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(job.helpers);
      jobs_.push_back(&job);
    }
    if (one_helper) {
      wake_.notify_one();
    } else {
      wake_.notify_all();
    }
    job.work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
    done_.wait(lock, [&] { return job.inside == 0; });
  }

 private:
  // A machine that gives no more threads is no error: the caller does the work.
  void grow(int helpers) {
    while (helpers_ < std::min(helpers, kMostHelpers)) {
      try {
        std::thread([this] { help(); }).detach();
      } catch (const std::system_error&) {
        return;
      }
      ++helpers_;
    }
  }

  Job* find() {
    for (Job* job : jobs_) {
      if (job->helpers > 0 && job->next.load(std::memory_order_relaxed) < job->tasks) return job;
    }
    return nullptr;
  }

  [[noreturn]] void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = nullptr;
      wake_.wait(lock, [&] { return (job = find()) != nullptr; });
      --job->helpers;
      ++job->inside;
      const int slot = job->next_slot++;
      lock.unlock();
      job->work(slot);
      lock.lock();
      if (--job->inside == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<Job*> jobs_;
  int helpers_ = 0;
};

// Never destroyed: helpers wait in it until the process ends. In a forked child there are no
// helpers and the mutex may be held for ever, so the child gets a new pool and the old one is left
// alone.
std::atomic<Pool*> g_pool{nullptr};

Pool& pool() {
  Pool* pool = g_pool.load(std::memory_order_acquire);
  if (pool != nullptr) return *pool;
  static std::mutex once;
  std::lock_guard<std::mutex> lock(once);
  pool = g_pool.load(std::memory_order_acquire);
  if (pool == nullptr) {
    pool = new Pool;
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { g_pool.store(new Pool, std::memory_order_release); });
#endif
    g_pool.store(pool, std::memory_order_release);
  }
  return *pool;
}

thread_local const bc_pool* t_lent = nullptr;

// The tasks of a job on the threads of a host: each of them has a slot and claims until none is left.
void run_lent(const bc_pool& lent, Job& job) {
  lent.run(
      lent.self, [](void* context, int64_t slot) { static_cast<Job*>(context)->work(static_cast<int>(slot)); },
      &job, job.helpers + 1);
}

}  // namespace

void run_tasks(int64_t tasks, int threads, Body body, void* context) {
  const int helpers = static_cast<int>(std::min<int64_t>(threads, tasks)) - 1;
  if (helpers < 1) {
    for (int64_t task = 0; task < tasks; ++task) body(context, task, 0);
    return;
  }
  Job job{body, context, tasks, helpers};
  if (t_lent != nullptr) {
    run_lent(*t_lent, job);
  } else {
    pool().run(job);
  }
}

int worthwhile(int threads, double nanoseconds) {
  if (nanoseconds < 100e3) return 1;
  return static_cast<int>(std::min<double>(threads, nanoseconds / 50e3));
}

}  // namespace bc

extern "C" void bc_lend_pool(const bc_pool* pool) { bc::t_lent = pool; }
