// Runs the threads of one block after another as fibers, in an order drawn from a seed: blocks, warps and the lanes of each
// warp come in another order each time they go on, and shared memory is filled with NaN for every block. What depends on an
// order that no barrier makes then gives wrong results, sooner or later. See shim.h.
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
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
constexpr size_t STACK = 64 * 1024;
constexpr unsigned WARP = 32, MOST_BYTES = 16;

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, FINISHED };

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define FAST_SWITCH 1
// Saves what a called function must keep on the stack, and goes on with another stack.
extern "C" void host_switch(void** save, void* to);
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
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_switch, .-host_switch
)");
#endif

struct Fiber {
  State state;
  std::unique_ptr<char[]> stack;
#ifdef FAST_SWITCH
  void* top;
#else
  ucontext_t context;
#endif
};

std::vector<Fiber> fibers;
unsigned current, threads;
#ifdef FAST_SWITCH
void* scheduler;
#else
ucontext_t scheduler;
#endif
void (*body)(void**);
void** arguments;
uint64_t random_state;
char exchange[1024][MOST_BYTES];
bool shown[1024];

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
#ifdef FAST_SWITCH
  host_switch(&fibers[me].top, scheduler);
#else
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, nullptr, 0);
#endif
  swapcontext(&fibers[me].context, &scheduler);
#endif
  current = me;
  threadIdx.x = me;
}

void entry() {
  body(arguments);
  pause(FINISHED);
  abort();
}

void start(Fiber& fiber) {
  if (!fiber.stack) fiber.stack.reset(new char[STACK]);
  fiber.state = READY;
#ifdef FAST_SWITCH
  auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + STACK) & ~uintptr_t(15);
  auto* words = reinterpret_cast<void**>(top) - 8;
  for (int i = 0; i < 6; i++) words[i] = nullptr;  // the six registers
  words[6] = reinterpret_cast<void*>(entry);       // where `ret` goes; the stack is then 8 below a multiple of 16
  words[7] = nullptr;
  fiber.top = words;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack = {fiber.stack.get(), 0, STACK};
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#endif
}

void go_on(unsigned thread) {
  current = thread;
  threadIdx.x = thread;
#ifdef FAST_SWITCH
  host_switch(&scheduler, fibers[thread].top);
#else
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, fibers[thread].stack.get(), STACK);
#endif
  swapcontext(&scheduler, &fibers[thread].context);
#endif
}

[[noreturn]] void stop(const char* why) {
  fprintf(stderr, "a kernel on the host: %s (block %u, thread %u)\n", why, blockIdx.x, current);
  abort();
}

// Lets every thread of the warp run until it waits or ends; opens the warp's barrier when all that are left wait there.
unsigned run_warp(unsigned first, unsigned end) {
  unsigned order[WARP], finished = 0;
  std::iota(order, order + (end - first), first);
  for (bool open = true; open;) {
    shuffle(order, end - first);
    for (unsigned i = 0; i < end - first; i++) {
      if (fibers[order[i]].state != READY) continue;
      go_on(order[i]);
      finished += fibers[order[i]].state == FINISHED;
    }
    unsigned waiting = 0, elsewhere = 0;
    for (unsigned i = first; i < end; i++) {
      waiting += fibers[i].state == AT_WARP_BARRIER;
      elsewhere += fibers[i].state == AT_BLOCK_BARRIER;
    }
    if (waiting && elsewhere) stop("some lanes wait for their warp, others for their block");
    open = waiting;
    for (unsigned i = first; i < end; i++)
      if (fibers[i].state == AT_WARP_BARRIER) fibers[i].state = READY;
  }
  return finished;
}

void run_block() {
  unsigned finished = 0;
  std::vector<unsigned> warps((threads + WARP - 1) / WARP);
  std::iota(warps.begin(), warps.end(), 0u);
  while (finished < threads) {
    shuffle(warps.data(), (unsigned)warps.size());
    for (unsigned warp : warps) finished += run_warp(warp * WARP, std::min(threads, (warp + 1) * WARP));
    unsigned waiting = 0;
    for (unsigned i = 0; i < threads; i++) waiting += fibers[i].state == AT_BLOCK_BARRIER;
    if (waiting && finished) stop("some threads ended while others wait for the block");
    for (unsigned i = 0; i < threads; i++)
      if (fibers[i].state == AT_BLOCK_BARRIER) fibers[i].state = READY;
  }
}
}  // namespace

extern "C" {
void host_barrier(int of_block) { pause(of_block ? AT_BLOCK_BARRIER : AT_WARP_BARRIER); }

void host_exchange(const void* mine, unsigned bytes) {
  if (bytes > MOST_BYTES) stop("a shuffle of more than 16 bytes");
  memcpy(exchange[current], mine, bytes);
  shown[current] = true;
  pause(AT_WARP_BARRIER);
}

const void* host_exchanged(unsigned lane, unsigned) {
  unsigned other = current / WARP * WARP + lane;
  if (other >= threads || !shown[other]) stop("a shuffle from a lane that takes no part in it");
  return exchange[other];
}

void host_exchange_done() {
  pause(AT_WARP_BARRIER);
  shown[current] = false;
  pause(AT_WARP_BARRIER);  // nobody shows its next value before all have read this one
}

void host_trap() { stop("trap"); }

// Runs `blocks` blocks of `count` threads, each with `shared` bytes of shared memory.
void host_run(void (*kernel)(void**), void** given, unsigned blocks, unsigned count, size_t shared, uint64_t seed) {
  body = kernel, arguments = given, threads = count;
  random_state = seed * 2654435769u + 88172645463325252ull;
  gridDim.x = blocks, blockDim.x = count;
  fibers.resize(std::max<size_t>(fibers.size(), count));
  // Exactly as large as was asked for, so that a sanitizer sees what lies beyond.
  std::unique_ptr<char, decltype(&free)> memory(static_cast<char*>(aligned_alloc(16, (shared + 15) / 16 * 16 + 16)), free);
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  shuffle(order.data(), blocks);
  char* end = memory.get() + (shared + 15) / 16 * 16;
  memset(end, 0x5a, 16);
  for (unsigned block : order) {
    blockIdx.x = block;
    memset(memory.get(), 0xff, (shared + 15) / 16 * 16);  // NaN
    host_shared = memory.get();
    memset(shown, 0, sizeof shown);
    for (unsigned i = 0; i < count; i++) start(fibers[i]);
    run_block();
    for (int i = 0; i < 16; i++)
      if (end[i] != 0x5a) stop("wrote beyond the shared memory that was asked for");
  }
}
}
