// Runs the threads of one block after another as fibers, in an order drawn from a seed: blocks, warps and the lanes of each
// warp come in another order each time they continue, and shared memory is filled with NaN for every block. What depends on an
// order that no barrier makes then gives wrong results, sooner or later. Threads that wait for each other at different places,
// or for one that has ended, are found at once. See shim.h.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

struct HostIndex {
  unsigned x;
};

extern "C" {
HostIndex threadIdx, blockIdx, blockDim, gridDim;
char* host_shared;
}

namespace {
constexpr size_t STACK = 256 * 1024;
constexpr unsigned WARP = 32, MOST_BYTES = 16;

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, FINISHED, STOPPED };

#if defined(__x86_64__)
using Context = void*;  // where the stack ends, with the registers on it that a called function must keep
extern "C" void host_switch(Context* save, Context* to);
asm(R"(
.text
.globl host_switch
.hidden host_switch
.type host_switch, @function
host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_switch, .-host_switch
)");

void prepare(Context* context, char* stack, void (*entry)()) {
  auto** words = reinterpret_cast<void**>(stack + STACK) - 8;
  std::fill_n(words, 8, nullptr);
  words[6] = reinterpret_cast<void*>(entry);  // where `ret` goes; the stack is then 8 below a multiple of 16
  *context = words;
}
#else
using Context = ucontext_t;
void host_switch(Context* save, Context* to) { swapcontext(save, to); }

void prepare(Context* context, char* stack, void (*entry)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = STACK;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}
#endif

// What AddressSanitizer is told: that another stack is about to be used, and that it now is.
#if defined(__SANITIZE_ADDRESS__)
void leave(void** save, const void* stack, size_t size) { __sanitizer_start_switch_fiber(save, stack, size); }
void arrive(void* saved, const void** stack, size_t* size) { __sanitizer_finish_switch_fiber(saved, stack, size); }
void forget(char* stack) { __asan_unpoison_memory_region(stack, STACK); }
#else
void leave(void**, const void*, size_t) {}
void arrive(void*, const void**, size_t*) {}
void forget(char*) {}
#endif

struct Fiber {
  State state;
  int place;      // where it waits: the line of the source, and whether it is a shuffle
  unsigned mask;  // the lanes it waits for, at a barrier of its warp
  unsigned met;   // those of them that came to the one it passed last
  char* stack;
  Context context;
  void* saved;              // by AddressSanitizer
  char shows[MOST_BYTES];   // to the other lanes of its warp
  char shown[MOST_BYTES];   // what it showed at the barrier that it passed last
};

struct Stop {};

std::vector<Fiber> fibers;
unsigned current, threads;
Context scheduler;
void* scheduler_saved;
const void* scheduler_stack;
size_t scheduler_size;
void (*body)(void**);
void** arguments;
uint64_t random_state, seed;
char reason[200];

unsigned draw(unsigned below) {  // xorshift64*
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return (unsigned)((random_state * 2685821657736338717ull >> 32) % below);
}

template <class T> void shuffle(T* first, unsigned count) {
  for (unsigned i = count; i > 1; i--) std::swap(first[i - 1], first[draw(i)]);
}

void pause(State state) {
  unsigned me = current;
  fibers[me].state = state;
  leave(state == FINISHED ? nullptr : &fibers[me].saved, scheduler_stack, scheduler_size);
  host_switch(&fibers[me].context, &scheduler);
  arrive(fibers[me].saved, &scheduler_stack, &scheduler_size);
  current = threadIdx.x = me;
}

void entry() {
  arrive(nullptr, &scheduler_stack, &scheduler_size);
  body(arguments);
  pause(FINISHED);
  abort();
}

void start(Fiber& fiber) {
  if (!fiber.stack) {
    size_t page = sysconf(_SC_PAGESIZE);
    void* memory = mmap(nullptr, page + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE)) abort();
    fiber.stack = static_cast<char*>(memory) + page;
  }
  forget(fiber.stack);
  fiber.state = READY;
  prepare(&fiber.context, fiber.stack, entry);
}

void go_on(unsigned thread) {
  current = threadIdx.x = thread;
  leave(&scheduler_saved, fibers[thread].stack, STACK);
  host_switch(&scheduler, &fibers[thread].context);
  arrive(scheduler_saved, nullptr, nullptr);
  if (fibers[thread].state == STOPPED) throw Stop();
}

void explain(const char* why, int line) {
  snprintf(reason, sizeof reason, "%s (line %d of the unit, block %u, thread %u, seed %llu)", why, line, blockIdx.x, current,
           (unsigned long long)seed);
}

// Ends the run: from a fiber, and from the scheduler.
[[noreturn]] void stop_here(const char* why, int line = 0) {
  explain(why, line);
  pause(STOPPED);
  abort();
}
[[noreturn]] void stop(const char* why, unsigned thread) {
  current = thread;
  explain(why, fibers[thread].place / 2);
  throw Stop();
}

// Lets the lanes continue that wait for each other in one place, each for all others of its mask that have not ended.
bool open_warp(unsigned first, unsigned end) {
  bool opened = false;
  for (unsigned i = first; i < end; i++) {
    if (fibers[i].state != AT_WARP_BARRIER) continue;
    unsigned mask = fibers[i].mask, met = 0;
    bool complete = true;
    for (unsigned j = first; j < end && complete; j++) {
      const Fiber& other = fibers[j];
      if (!(mask >> (j - first) & 1) || other.state == FINISHED) continue;
      complete = other.state == AT_WARP_BARRIER && other.mask == mask && other.place == fibers[i].place;
      met |= 1u << (j - first);
    }
    if (!complete) continue;
    opened = true;
    for (unsigned j = first; j < end; j++) {
      if (!(met >> (j - first) & 1)) continue;
      fibers[j].state = READY;
      fibers[j].met = met;
      memcpy(fibers[j].shown, fibers[j].shows, MOST_BYTES);
    }
  }
  return opened;
}

// Lets every thread of the warp run until it waits for its block or ends.
unsigned run_warp(unsigned first, unsigned end) {
  unsigned order[WARP], finished = 0;
  std::iota(order, order + (end - first), first);
  do {
    shuffle(order, end - first);
    for (unsigned i = 0; i < end - first; i++) {
      if (fibers[order[i]].state != READY) continue;
      go_on(order[i]);
      finished += fibers[order[i]].state == FINISHED;
    }
  } while (open_warp(first, end));
  for (unsigned i = first; i < end; i++)
    if (fibers[i].state == AT_WARP_BARRIER) stop("waits for lanes that wait elsewhere", i);
  return finished;
}

void run_block() {
  unsigned finished = 0;
  std::vector<unsigned> warps((threads + WARP - 1) / WARP);
  std::iota(warps.begin(), warps.end(), 0u);
  while (finished < threads) {
    shuffle(warps.data(), (unsigned)warps.size());
    for (unsigned warp : warps) finished += run_warp(warp * WARP, std::min(threads, (warp + 1) * WARP));
    for (unsigned i = 0, waiting = threads; i < threads; i++) {
      if (fibers[i].state != AT_BLOCK_BARRIER) continue;
      if (finished) stop("waits for threads that have ended", i);
      if (waiting == threads) waiting = i;
      if (fibers[i].place != fibers[waiting].place) stop("waits for threads that wait elsewhere", i);
    }
    for (unsigned i = 0; i < threads; i++)
      if (fibers[i].state == AT_BLOCK_BARRIER) fibers[i].state = READY;
  }
}

void wait_for_lanes(unsigned mask, int place) {
  if (!(mask >> current % WARP & 1)) stop_here("a lane that its own mask leaves out", place / 2);
  fibers[current].mask = mask, fibers[current].place = place;
  pause(AT_WARP_BARRIER);
}
}  // namespace

extern "C" {
void host_block_barrier(int line) {
  fibers[current].place = 2 * line;
  pause(AT_BLOCK_BARRIER);
}

void host_warp_barrier(unsigned mask, int line) { wait_for_lanes(mask, 2 * line); }

unsigned host_show(const void* mine, unsigned bytes, unsigned mask, int line) {
  if (bytes > MOST_BYTES) stop_here("a shuffle of more than 16 bytes", line);
  memcpy(fibers[current].shows, mine, bytes);
  wait_for_lanes(mask, 2 * line + 1);
  return fibers[current].met;
}

const void* host_shown(unsigned lane) {
  const Fiber& me = fibers[current];
  if (!(me.met >> lane & 1)) stop_here("a shuffle from a lane that takes no part in it", me.place / 2);
  return fibers[current / WARP * WARP + lane].shown;
}

void host_trap() { stop_here("trap"); }

// Runs `blocks` blocks of `count` threads, each with `shared` bytes of shared memory; why it had to stop, or null.
const char* host_run(void (*kernel)(void**), void** given, unsigned blocks, unsigned count, size_t shared, uint64_t number) {
  body = kernel, arguments = given, threads = count, seed = number;
  random_state = seed * 2654435769u + 88172645463325252ull;
  gridDim.x = blocks, blockDim.x = count;
  if (fibers.size() < count) fibers.resize(count);
#if defined(__SANITIZE_ADDRESS__)
  constexpr size_t GUARD = 0;  // AddressSanitizer has its own
#else
  constexpr size_t GUARD = 64;
#endif
  std::unique_ptr<char, decltype(&free)> memory(static_cast<char*>(malloc(shared + GUARD)), free);  // aligned to 16 bytes
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  shuffle(order.data(), blocks);
  char* end = memory.get() + shared;
  memset(end, 0x5a, GUARD);
  try {
    for (unsigned block : order) {
      blockIdx.x = block;
      memset(memory.get(), 0xff, shared);  // NaN
      host_shared = memory.get();
      for (unsigned i = 0; i < count; i++) start(fibers[i]);
      run_block();
      if (std::count(end, end + GUARD, 0x5a) != (long)GUARD) {
        explain("wrote beyond the shared memory that was asked for", 0);
        return reason;
      }
    }
  } catch (const Stop&) {
    return reason;
  }
  return nullptr;
}
}
