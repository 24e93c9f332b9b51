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
typedef struct {
  const int64_t *scalars, *positions, *inner;
} Step;

static int64_t blocks_in(const Job *job, int64_t leaf) {
  return count(result(job->frame, leaf)) / BLOCK;
}

static void run_piece(const Job *job, const Piece *piece) {
  const CallFrame *frame = job->frame;
  const Step *step = job->call;
  const int64_t n = job->leaves, leaf = piece->leaf;
  const int64_t arrays = frame->arguments.size - n * (1 + HELD);
  const void *s[SCALARS + 1];
  void *x[1 + HELD];
  for (int64_t j = 0; j < SCALARS; ++j)
    s[j] = argument(frame, step->scalars[leaf * SCALARS + j])->data;
  const int32_t position = (int32_t)step->positions[leaf];
  s[SCALARS] = &position;
  for (int64_t j = 0; j <= HELD; ++j) x[j] = argument(frame, arrays + j * n + leaf)->data;
  kernel(s, x, piece->begin, piece->count, step->inner[leaf]);
}

/* Neighbours in a leaf are one piece. */
static void run_pieces(const Job *job, Piece *pieces, int64_t n) {
  for (int64_t i = 0; i < n;) {
    Piece piece = pieces[i];
    while (++i < n && pieces[i].leaf == piece.leaf) piece.count += pieces[i].count;
    run_piece(job, &piece);
  }
}

static const char *checked(const CallFrame *frame) {
  const int64_t n = frame->results.size / HELD;
  const int64_t arrays = frame->arguments.size - n * (1 + HELD);
  const Array *scalars = attribute(frame, "scalars");
  const Array *positions = attribute(frame, "positions");
  const Array *inner = attribute(frame, "inner");
  if (arrays < 1 || frame->results.size != n * HELD || !scalars || !positions ||
      !inner || positions->size != (size_t)n || inner->size != (size_t)n ||
      scalars->size < (size_t)(n * SCALARS))
    return "optadamw: a kernel was called with the operands of another one";
  for (int64_t i = 0; i < n * HELD; ++i)
    if (argument(frame, arrays + n + i)->data != result(frame, i)->data &&
        count(result(frame, i)))
      return "optadamw: XLA did not put the results in the place of their arguments";
  return NULL;
}

EXPORTED Error *HANDLER(CallFrame *frame) {
  if (answered(frame)) return NULL;
  const char *wrong = checked(frame);
  if (wrong) return error(frame, INVALID_ARGUMENT, wrong);
  if (!*(const uint8_t *)argument(frame, 0)->data) return NULL;
  const Step step = {(const int64_t *)attribute(frame, "scalars")->data,
                     (const int64_t *)attribute(frame, "positions")->data,
                     (const int64_t *)attribute(frame, "inner")->data};
  Job *job = job_of(frame, frame->results.size / HELD, &step);
  if (!job) return no_memory(frame);
  run(job);
  let_go(job);
  return NULL;
}
