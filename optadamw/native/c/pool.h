/* The pieces of some leaves, worked on by the threads of XLA's own pool.

   The source after this file defines `blocks_in`, the blocks of a leaf, and `run_pieces`,
   which runs some pieces that are neighbours. Before it BLOCK is defined: the elements
   of a block, 1 without blocks. */
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#define EXPORTED __attribute__((visibility("default")))
EXPORTED const char optadamw_source[] = SOURCE;

/* In blocks; 8192 elements. A thread takes up to MOST chunks at once: neighbours, as
   one thread that computes next to another fetches lines ahead that the other writes. */
enum { CHUNK = 8192 / BLOCK, MOST = 8 };

/* XLA's threads treat denormals as zero, in and out. immintrin.h has names for the two
   functions of x86, but gcc 12 takes longer to read it than to compile a loop. */
#if defined(__x86_64__)
typedef unsigned Mode;
static Mode flush_denormals(void) {
  const Mode old = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(old | 0x8040u);
  return old;
}
static void restore(Mode old) { __builtin_ia32_ldmxcsr(old); }
#elif defined(__aarch64__)
typedef uint64_t Mode;
static Mode flush_denormals(void) {
  Mode old;
  __asm__ volatile("mrs %0, fpcr" : "=r"(old));
  __asm__ volatile("msr fpcr, %0" ::"r"(old | (1ull << 24)));
  return old;
}
static void restore(Mode old) { __asm__ volatile("msr fpcr, %0" ::"r"(old)); }
#else
#error "x86-64 and aarch64 are known to flush denormals as XLA's threads do"
#endif

static Error *error(const CallFrame *frame, int code, const char *message) {
  ErrorCreate create = {SIZE_UPTO(ErrorCreate, code), NULL, message, code};
  return frame->api->error_create(&create);
}

static void drop(const CallFrame *frame, Error *error) {
  ErrorDestroy destroy = {SIZE_UPTO(ErrorDestroy, error), NULL, error};
  frame->api->error_destroy(&destroy);
}

static const Buffer *argument(const CallFrame *frame, int64_t i) {
  return (const Buffer *)frame->arguments.values[i];
}

static const Buffer *result(const CallFrame *frame, int64_t i) {
  return (const Buffer *)frame->results.values[i];
}

static int64_t count(const Buffer *buffer) {
  int64_t n = 1;
  for (int64_t i = 0; i < buffer->rank; ++i) n *= buffer->dims[i];
  return n;
}

static const Array *attribute(const CallFrame *frame, const char *name) {
  const Attributes *all = &frame->attributes;
  for (int64_t i = 0; i < all->size; ++i)
    if (all->names[i]->length == strlen(name) &&
        !memcmp(all->names[i]->text, name, strlen(name)))
      return (const Array *)all->values[i];
  return NULL;
}

typedef struct {
  int64_t leaf, begin, count;
  double sum; /* of the piece, if the call forms sums */
} Piece;

/* The chunks that are left of one thread's share: the first, and the end in the upper
   half. It fills a line of the cache. */
typedef struct {
  _Alignas(64) _Atomic uint64_t left;
} Share;

static uint64_t packed(uint64_t first, uint64_t end) { return end << 32 | first; }
static uint64_t first_of(uint64_t left) { return left & 0xffffffffu; }
static uint64_t size_of(uint64_t left) { return (left >> 32) - first_of(left); }

/* One call. Each of the threads, which are the caller and some of the pool, has a share
   of neighbouring chunks, and helps others when its own are done. The last to let go of
   the job frees it, which may be long after the call has ended. */
typedef struct {
  atomic_llong done;
  atomic_int holders, joined;
  int64_t chunks, threads;
  Share *shares;
  const CallFrame *frame;
  int64_t leaves;
  const void *call; /* what `run_pieces` reads */
  Piece *pieces;  /* leaves cut at multiples of `CHUNK` blocks; small ones share a chunk */
  int64_t *first; /* the first piece of each chunk, and the end */
} Job;

static int64_t blocks_in(const Job *job, int64_t leaf);
static void run_pieces(const Job *job, Piece *pieces, int64_t n);

static void let_go(Job *job) {
  if (atomic_fetch_sub_explicit(&job->holders, 1, memory_order_acq_rel) == 1) {
    free(job->shares);
    free(job->pieces);
    free(job->first);
    free(job);
  }
}

/* Takes chunks of a thread's own share from its front and runs them: a quarter of those
   that are left, so that another thread can help with the others. */
static int64_t run_share(Job *job, Share *own) {
  int64_t ran = 0;
  uint64_t left = atomic_load_explicit(&own->left, memory_order_relaxed);
  while (size_of(left)) {
    uint64_t taken = (size_of(left) + 3) / 4;
    if (taken > MOST) taken = MOST;
    const uint64_t rest = left + taken;
    if (!atomic_compare_exchange_weak_explicit(&own->left, &left, rest,
                                               memory_order_relaxed,
                                               memory_order_relaxed))
      continue;
    const int64_t *first = &job->first[first_of(left)];
    run_pieces(job, &job->pieces[first[0]], first[taken] - first[0]);
    ran += (int64_t)taken;
    left = atomic_load_explicit(&own->left, memory_order_relaxed);
  }
  return ran;
}

/* Moves the back half of the largest share to an empty one, or all of a share whose
   thread has not come; false if none is left. */
static bool help(Job *job, Share *own) {
  for (;;) {
    uint64_t most = 0;
    int64_t from = 0;
    for (int64_t i = 0; i < job->threads; ++i) {
      const uint64_t left =
          atomic_load_explicit(&job->shares[i].left, memory_order_relaxed);
      if (size_of(left) > size_of(most)) {
        most = left;
        from = i;
      }
    }
    if (!size_of(most)) return false;
    const bool has_come =
        from < atomic_load_explicit(&job->joined, memory_order_relaxed);
    const uint64_t kept = has_come ? size_of(most) / 2 : 0;
    const uint64_t begin = first_of(most), middle = begin + kept;
    uint64_t expected = most;
    if (atomic_compare_exchange_strong_explicit(
            &job->shares[from].left, &expected, packed(begin, middle),
            memory_order_relaxed, memory_order_relaxed)) {
      atomic_store_explicit(&own->left, packed(middle, most >> 32),
                            memory_order_relaxed);
      return true;
    }
  }
}

static void work(Job *job) {
  int64_t mine = 0;
  const int me = atomic_fetch_add_explicit(&job->joined, 1, memory_order_relaxed);
  Share *own = &job->shares[me];
  const Mode old = flush_denormals();
  do mine += run_share(job, own);
  while (help(job, own));
  restore(old);
  if (mine) atomic_fetch_add_explicit(&job->done, mine, memory_order_release);
}

static void task(void *data) {
  work((Job *)data);
  let_go((Job *)data);
}

/* Cuts the leaves into chunks; false without memory. */
static bool cut(Job *job) {
  int64_t most = 0;
  for (int64_t i = 0; i < job->leaves; ++i) most += 1 + blocks_in(job, i) / CHUNK;
  job->pieces = malloc((size_t)(most + 1) * sizeof(Piece));
  job->first = malloc((size_t)(most + 1) * sizeof(int64_t));
  if (!job->pieces || !job->first) return false;
  int64_t pieces = 0, room = 0;
  for (int64_t leaf = 0; leaf < job->leaves; ++leaf) {
    const int64_t size = blocks_in(job, leaf);
    for (int64_t begin = 0; begin < size; begin += CHUNK) {
      if (room <= 0) {
        job->first[job->chunks++] = pieces;
        room = CHUNK;
      }
      const int64_t taken = size - begin < CHUNK ? size - begin : CHUNK;
      job->pieces[pieces++] = (Piece){leaf, begin, taken, 0.0};
      room -= taken;
    }
  }
  job->first[job->chunks] = pieces;
  return true;
}

static int64_t threads(const CallFrame *frame) {
  int64_t found = 1;
  CountThreads counting = {SIZE_UPTO(CountThreads, count), NULL, frame->context, &found};
  Error *failed = frame->api->count_threads(&counting);
  if (failed) {
    drop(frame, failed);
    return 1;
  }
  return found;
}

/* Divides the chunks among the threads; false without memory. */
static bool share(Job *job) {
  const int64_t found = job->chunks > 1 ? threads(job->frame) : 1;
  job->threads = found < job->chunks ? found : job->chunks;
  if (job->threads < 1) job->threads = 1;
  job->shares = aligned_alloc(64, (size_t)job->threads * sizeof(Share));
  if (!job->shares) return false;
  for (int64_t i = 0; i < job->threads; ++i)
    atomic_init(&job->shares[i].left,
                packed((uint64_t)(job->chunks * i / job->threads),
                       (uint64_t)(job->chunks * (i + 1) / job->threads)));
  return true;
}

/* A job that is to be let go of; NULL without memory. */
static Job *job_of(const CallFrame *frame, int64_t leaves, const void *call) {
  Job *job = calloc(1, sizeof(Job));
  if (!job) return NULL;
  atomic_init(&job->holders, 1);
  job->frame = frame;
  job->leaves = leaves;
  job->call = call;
  if (cut(job) && share(job)) return job;
  let_go(job);
  return NULL;
}

/* The caller works too, and waits only for chunks that run already: a pool of one
   thread, or one whose threads all wait here, does not come to a stop. */
static void run(Job *job) {
  const CallFrame *frame = job->frame;
  const int64_t chunks = job->chunks, others = job->threads - 1;
  for (int64_t i = 0; i < others; ++i) {
    Schedule schedule = {SIZE_UPTO(Schedule, data), NULL, frame->context, task, job};
    atomic_fetch_add_explicit(&job->holders, 1, memory_order_relaxed);
    Error *failed = frame->api->schedule(&schedule);
    if (failed) {
      drop(frame, failed);
      let_go(job);
      break;
    }
  }
  work(job);
  while (atomic_load_explicit(&job->done, memory_order_acquire) < chunks) sched_yield();
}

/* Answers XLA's question for the version; false if the frame is a call. */
static bool answered(const CallFrame *frame) {
  for (Extension *e = frame->extensions; e; e = e->next)
    if (e->type == 1) {
      Metadata *metadata = ((MetadataExtension *)e)->metadata;
      metadata->version.major = 0;
      metadata->version.minor = 3;
      metadata->traits = 0;
      return true;
    }
  return frame->stage != EXECUTE;
}

static Error *no_memory(const CallFrame *frame) {
  return error(frame, RESOURCE_EXHAUSTED, "optadamw: no memory");
}
