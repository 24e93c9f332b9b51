/* The pieces of some leaves, worked on by the threads of XLA's own pool.

   The source after this file defines `blocks_in`, the blocks of a leaf, and `run_piece`.
   Before it BLOCK is defined: the elements of a block, 1 without blocks. */
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
  double sum; /* of the piece, if the call forms sums */
} Piece;

/* One call. The threads of the pool and the caller take chunks until none is left; the
   last to let go of the job frees it, which may be long after the call has ended. */
typedef struct {
  atomic_llong next, done;
  atomic_int holders;
  int64_t chunks;
  const CallFrame *frame;
  int64_t leaves;
  const void *call; /* what `run_piece` reads */
  Piece *pieces;  /* leaves cut at multiples of `CHUNK` blocks; small ones share a chunk */
  int64_t *first; /* the first piece of each chunk, and the end */
} Job;

static int64_t blocks_in(const Job *job, int64_t leaf);
static void run_piece(const Job *job, Piece *piece);

static void let_go(Job *job) {
  if (atomic_fetch_sub_explicit(&job->holders, 1, memory_order_acq_rel) == 1) {
    free(job->pieces);
    free(job->first);
    free(job);
  }
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

/* A job that is to be let go of; NULL without memory. */
static Job *job_of(const CallFrame *frame, int64_t leaves, const void *call) {
  Job *job = calloc(1, sizeof(Job));
  if (!job) return NULL;
  atomic_init(&job->holders, 1);
  job->frame = frame;
  job->leaves = leaves;
  job->call = call;
  if (cut(job)) return job;
  let_go(job);
  return NULL;
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
