/* The handler of one kernel. It runs the kernel on many leaves, in place, in chunks on
   the threads of XLA's own pool.

   Arguments: `go`; scalars; arrays that no kernel reads; the gradients of the n leaves;
   their parameters; each of their buffers, n at a time. Results: the parameters and
   buffers, in their place. Attributes: `scalars`, for each leaf the arguments that are
   its scalars; `positions`, the place of each leaf in its tree; `inner`, the elements
   of each leaf between two neighbours in a block.

   The source before this file defines `kernel`, BLOCK (the elements of a block; 1
   without blocks), HELD (parameter and buffers), SCALARS (those that are arguments),
   HANDLER and SOURCE (a digest). */
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define EXPORTED __attribute__((visibility("default")))
EXPORTED const char optadamw_source[] = SOURCE;

/* In blocks; 65536 elements. */
enum { CHUNK = 65536 / BLOCK };

/* XLA's threads treat denormals as zero, in and out. */
#if defined(__x86_64__)
typedef unsigned Mode;
static Mode flush_denormals(void) {
  const Mode old = _mm_getcsr();
  _mm_setcsr(old | 0x8040u);
  return old;
}
static void restore(Mode old) { _mm_setcsr(old); }
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
} Piece;

/* One call. The threads of the pool and the caller take chunks until none is left; the
   last to let go of the job frees it, which may be long after the call has ended. */
typedef struct {
  atomic_llong next, done;
  atomic_int holders;
  int64_t chunks;
  const CallFrame *frame;
  int64_t leaves;
  const int64_t *scalars, *positions, *inner;
  Piece *pieces;  /* leaves cut at `CHUNK` blocks; small ones share a chunk */
  int64_t *first; /* the first piece of each chunk, and the end */
} Job;

static void let_go(Job *job) {
  if (atomic_fetch_sub_explicit(&job->holders, 1, memory_order_acq_rel) == 1) {
    free(job->pieces);
    free(job->first);
    free(job);
  }
}

static void run_piece(const Job *job, const Piece *piece) {
  const CallFrame *frame = job->frame;
  const int64_t n = job->leaves, leaf = piece->leaf;
  const int64_t arrays = frame->arguments.size - n * (1 + HELD);
  const void *s[SCALARS + 1];
  void *x[1 + HELD];
  for (int64_t j = 0; j < SCALARS; ++j)
    s[j] = argument(frame, job->scalars[leaf * SCALARS + j])->data;
  const int32_t position = (int32_t)job->positions[leaf];
  s[SCALARS] = &position;
  for (int64_t j = 0; j <= HELD; ++j) x[j] = argument(frame, arrays + j * n + leaf)->data;
  kernel(s, x, piece->begin, piece->count, job->inner[leaf]);
}

static void work(Job *job) {
  int64_t mine = 0, chunk;
  const Mode old = flush_denormals();
  while ((chunk = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed)) <
         job->chunks) {
    for (int64_t i = job->first[chunk]; i < job->first[chunk + 1]; ++i)
      run_piece(job, &job->pieces[i]);
    ++mine;
  }
  restore(old);
  if (mine) atomic_fetch_add_explicit(&job->done, mine, memory_order_release);
}

static void task(void *data) {
  work((Job *)data);
  let_go((Job *)data);
}

/* Cuts the leaves into chunks; false without memory. */
static bool cut(Job *job) {
  const CallFrame *frame = job->frame;
  int64_t most = 0;
  for (int64_t i = 0; i < job->leaves; ++i)
    most += 2 + count(result(frame, i)) / BLOCK / CHUNK;
  job->pieces = malloc((size_t)(most + 1) * sizeof(Piece));
  job->first = malloc((size_t)(most + 1) * sizeof(int64_t));
  if (!job->pieces || !job->first) return false;
  int64_t pieces = 0, room = 0;
  for (int64_t leaf = 0; leaf < job->leaves; ++leaf) {
    const int64_t size = count(result(frame, leaf)) / BLOCK;
    for (int64_t begin = 0; begin < size;) {
      if (room == 0) {
        job->first[job->chunks++] = pieces;
        room = CHUNK;
      }
      const int64_t taken = size - begin < room ? size - begin : room;
      job->pieces[pieces++] = (Piece){leaf, begin, taken};
      begin += taken;
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

/* The caller works too, and waits only for chunks that run already: a pool of one
   thread, or one whose threads all wait here, does not come to a stop. */
static void run(Job *job) {
  const CallFrame *frame = job->frame;
  int64_t others = job->chunks > 1 ? threads(frame) - 1 : 0;
  if (others > job->chunks - 1) others = job->chunks - 1;
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
  const int64_t chunks = job->chunks;
  work(job);
  while (atomic_load_explicit(&job->done, memory_order_acquire) < chunks) sched_yield();
}

static const char *checked(const CallFrame *frame) {
  const int64_t n = frame->results.size / HELD;
  const int64_t arrays = frame->arguments.size - n * (1 + HELD);
  const Array *scalars = attribute(frame, "scalars");
  const Array *positions = attribute(frame, "positions");
  const Array *inner = attribute(frame, "inner");
  if (arrays < 1 || frame->results.size != n * HELD || !scalars || !positions ||
      !inner || positions->size != (size_t)n || inner->size != (size_t)n || scalars->size < (size_t)(n * SCALARS))
    return "optadamw: a kernel was called with the operands of another one";
  for (int64_t i = 0; i < n * HELD; ++i)
    if (argument(frame, arrays + n + i)->data != result(frame, i)->data &&
        count(result(frame, i)))
      return "optadamw: XLA did not put the results in the place of their arguments";
  return NULL;
}

EXPORTED Error *HANDLER(CallFrame *frame) {
  for (Extension *e = frame->extensions; e; e = e->next)
    if (e->type == 1) {
      Metadata *metadata = ((MetadataExtension *)e)->metadata;
      metadata->version.major = 0;
      metadata->version.minor = 3;
      metadata->traits = 0;
      return NULL;
    }
  if (frame->stage != EXECUTE) return NULL;
  const char *wrong = checked(frame);
  if (wrong) return error(frame, INVALID_ARGUMENT, wrong);
  if (!*(const uint8_t *)argument(frame, 0)->data) return NULL;
  Job *job = calloc(1, sizeof(Job));
  if (!job) return error(frame, RESOURCE_EXHAUSTED, "optadamw: no memory");
  atomic_init(&job->holders, 1);
  job->frame = frame;
  job->leaves = frame->results.size / HELD;
  job->scalars = (const int64_t *)attribute(frame, "scalars")->data;
  job->positions = (const int64_t *)attribute(frame, "positions")->data;
  job->inner = (const int64_t *)attribute(frame, "inner")->data;
  const bool ready = cut(job);
  if (ready && job->chunks) run(job);
  let_go(job);
  return ready ? NULL : error(frame, RESOURCE_EXHAUSTED, "optadamw: no memory");
}
