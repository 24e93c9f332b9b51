/* XLA's thread pool, for a program of its own that sanitizers watch: tasks on threads
   that may run after the call has ended. The source of a handler stands before this
   file. */
#include <pthread.h>
#include <stdio.h>

enum { MOST_THREADS = 64 };
static pthread_t started[MOST_THREADS];
static int running = 0, failing = 0, errors = 0;

typedef struct {
  void (*task)(void *);
  void *data;
} Work;

static void *begin(void *given) {
  Work work = *(Work *)given;
  free(given);
  work.task(work.data);
  return NULL;
}

static Error *schedule(Schedule *s) {
  if (failing || running == MOST_THREADS) return (Error *)&errors;
  Work *work = malloc(sizeof *work);
  work->task = s->task;
  work->data = s->data;
  pthread_create(&started[running++], NULL, begin, work);
  return NULL;
}
static Error *count_threads(CountThreads *c) {
  *c->count = 4;
  return NULL;
}
static Error *create(ErrorCreate *e) {
  (void)e;
  ++errors;
  return (Error *)&errors;
}
static void destroy(ErrorDestroy *e) { (void)e; }
static const Api api = {.error_create = create,
                        .error_destroy = destroy,
                        .schedule = schedule,
                        .count_threads = count_threads};

static void join(void) {
  for (int i = 0; i < running; ++i) pthread_join(started[i], NULL);
}
