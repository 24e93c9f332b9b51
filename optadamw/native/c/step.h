/* The handler of one kernel. It runs the kernel on many leaves, in place, in chunks on
   the threads of XLA's own pool.

   Arguments: `go`; scalars; arrays that no kernel reads; the gradients of the n leaves;
   their parameters; each of their buffers, n at a time. Results: the parameters and
   buffers, in their place. Attributes: `scalars`, for each leaf the arguments that are
   its scalars; `positions`, the place of each leaf in its tree; `inner`, the elements
   of each leaf between two neighbours in a block; `parts`, empty unless the leaves are
   parts of larger ones that draw random bits (optadamw/native/shards.py).

   The source before this file defines `kernel`, BLOCK (the elements of a block; 1
   without blocks), HELD (parameter and buffers), SCALARS (those that are arguments),
   HANDLER and SOURCE (a digest). After the arguments, the scalars of a kernel are the
   position of its leaf, the index of the leaf's first element (`shift`), and by how much
   more than here the index grows from one element of a block to the next (`skip`). */
typedef struct {
  const int64_t *scalars, *positions, *inner, *parts;
} Step;

/* The head of `parts`: the argument that has the index of this device along each axis
   of the mesh, how many axes there are, and how many levels a leaf has. Of each leaf
   follow `run`, `skip`, a factor for each axis, and size and step of each level. */
enum { HEAD = 3 };

/* Sets the `shift` and `skip` of block `at`, and returns how many blocks from there on,
   itself included, have the same shift; at most `n`. Indices wrap at 2**32, as XLA's. */
static int64_t find_part(const Job *job, int64_t leaf, int64_t at, int64_t n,
                         uint32_t *shift, uint32_t *skip) {
  const Step *step = job->call;
  const int64_t *head = step->parts;
  *shift = *skip = 0;
  if (!head) return n;
  const int64_t axes = head[1], levels = head[2];
  const int64_t *own = head + HEAD + leaf * (2 + axes + 2 * levels);
  const uint32_t *device = argument(job->frame, head[0])->data;
  const int64_t run = own[0], left = run - at % run;
  *skip = (uint32_t)own[1];
  own += 2;
  for (int64_t i = 0; i < axes; ++i) *shift += device[i] * (uint32_t)own[i];
  own += axes;
  int64_t row = at / run;
  for (int64_t i = levels - 1; i >= 0; --i) {
    *shift += (uint32_t)(row % own[2 * i]) * (uint32_t)own[2 * i + 1];
    row /= own[2 * i];
  }
  return left < n ? left : n;
}

static int64_t blocks_in(const Job *job, int64_t leaf) {
  return count(result(job->frame, leaf)) / BLOCK;
}

static void run_piece(const Job *job, const Piece *piece) {
  const CallFrame *frame = job->frame;
  const Step *step = job->call;
  const int64_t n = job->leaves, leaf = piece->leaf;
  const int64_t arrays = frame->arguments.size - n * (1 + HELD);
  const int32_t position = (int32_t)step->positions[leaf];
  uint32_t shift, skip;
  const void *s[SCALARS + 3];
  void *x[1 + HELD];
  for (int64_t j = 0; j < SCALARS; ++j)
    s[j] = argument(frame, step->scalars[leaf * SCALARS + j])->data;
  s[SCALARS] = &position;
  s[SCALARS + 1] = &shift;
  s[SCALARS + 2] = &skip;
  for (int64_t j = 0; j <= HELD; ++j) x[j] = argument(frame, arrays + j * n + leaf)->data;
  const int64_t end = piece->begin + piece->count;
  for (int64_t at = piece->begin, taken; at < end; at += taken) {
    taken = find_part(job, leaf, at, end - at, &shift, &skip);
    kernel(s, x, at, taken, step->inner[leaf]);
  }
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
  const Array *inner = attribute(frame, "inner"), *parts = attribute(frame, "parts");
  if (arrays < 1 || frame->results.size != n * HELD || !scalars || !positions ||
      !inner || positions->size != (size_t)n || inner->size != (size_t)n ||
      scalars->size < (size_t)(n * SCALARS))
    return "optadamw: a kernel was called with the operands of another one";
  if (parts && parts->size) {
    const int64_t *head = parts->data;
    if (parts->size < HEAD || head[0] < 1 || head[0] >= arrays ||
        count(argument(frame, head[0])) != head[1] ||
        parts->size != (size_t)(HEAD + n * (2 + head[1] + 2 * head[2])))
      return "optadamw: a kernel was called with parts of other leaves";
  }
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
  const Array *parts = attribute(frame, "parts");
  const Step step = {(const int64_t *)attribute(frame, "scalars")->data,
                     (const int64_t *)attribute(frame, "positions")->data,
                     (const int64_t *)attribute(frame, "inner")->data,
                     parts && parts->size ? (const int64_t *)parts->data : NULL};
  Job *job = job_of(frame, frame->results.size / HELD, &step);
  if (!job) return no_memory(frame);
  run(job);
  let_go(job);
  return NULL;
}
