/* The norm of many gradients, and norms of groups of them.

   Squares of numbers of up to 32 bits are exact in double, so a fused multiply-add has
   the bits of a product and a sum. They are added in double in an order that depends on
   the sizes of the gradients alone, so the norm has equal bits on any number of threads
   and with any instruction set, and no sum overflows.

   A call adds its gradients to the sums of the calls before it. A gradient may hold
   several trees, one for each row. Arguments: the sums so far, doubles as pairs of
   uint32, [rows, norms, 2]; the gradients, [rows, ...]. Results: the sums after this
   call; the norms, float32 [rows, norms]. Attributes: `sizes`, which are rows, norms,
   and whether sums that overflow float32 give an infinite norm; `members`, pairs of a
   gradient and of a norm that counts it.

   The source before this file defines HANDLER and SOURCE (a digest). */
#include <float.h>

/* XLA's names of dtypes. */
enum { FLOAT16 = 10, FLOAT32 = 11, BFLOAT16 = 16 };

/* Sums that are formed beside each other, for the instructions of a CPU to be busy. */
enum { LANES = 64 };

#define SUM_OF_SQUARES(name, type, read)                                       \
  static double squares_##name(const type *x, int64_t n) {                     \
    double sums[LANES] = {0.0};                                                \
    int64_t i = 0;                                                             \
    for (; i + LANES <= n; i += LANES)                                         \
      for (int j = 0; j < LANES; ++j) {                                        \
        const double wide = read(x[i + j]);                                    \
        sums[j] = FMA(wide, wide, sums[j]);                                    \
      }                                                                        \
    for (int j = 0; i + j < n; ++j) {                                          \
      const double wide = read(x[i + j]);                                      \
      sums[j] = FMA(wide, wide, sums[j]);                                      \
    }                                                                          \
    for (int width = LANES / 2; width; width /= 2)                             \
      for (int j = 0; j < width; ++j) sums[j] += sums[j + width];              \
    return sums[0];                                                            \
  }
#define WIDE(x) ((double)(x))
SUM_OF_SQUARES(float32, float, WIDE)
SUM_OF_SQUARES(bfloat16, bf16, (double)from_bf16)
SUM_OF_SQUARES(float16, f16, (double)from_f16)

static int64_t blocks_in(const Job *job, int64_t leaf) {
  const int64_t rows = *(const int64_t *)job->call;
  return count(argument(job->frame, 1 + leaf / rows)) / rows;
}

static double squares(const Buffer *x, int64_t begin, int64_t n) {
  if (x->dtype == FLOAT32) return squares_float32((const float *)x->data + begin, n);
  if (x->dtype == FLOAT16) return squares_float16((const f16 *)x->data + begin, n);
  return squares_bfloat16((const bf16 *)x->data + begin, n);
}

static void run_pieces(const Job *job, Piece *pieces, int64_t n) {
  const int64_t rows = *(const int64_t *)job->call;
  for (Piece *piece = pieces; piece < pieces + n; ++piece) {
    const Buffer *x = argument(job->frame, 1 + piece->leaf / rows);
    const int64_t row = piece->leaf % rows * (count(x) / rows);
    piece->sum = squares(x, row + piece->begin, piece->count);
  }
}

static bool is_known(int dtype) {
  return dtype == FLOAT16 || dtype == FLOAT32 || dtype == BFLOAT16;
}

static const char *checked(const CallFrame *frame) {
  const Array *sizes = attribute(frame, "sizes"), *members = attribute(frame, "members");
  if (frame->arguments.size < 1 || frame->results.size != 2 || !sizes || !members ||
      sizes->size != 3 || members->size % 2)
    return "optadamw: the norm was called with other operands";
  const int64_t *size = sizes->data;
  if (count(argument(frame, 0)) != 2 * size[0] * size[1] ||
      count(result(frame, 0)) != 2 * size[0] * size[1] ||
      count(result(frame, 1)) != size[0] * size[1])
    return "optadamw: the norm was called with sums of another size";
  for (int64_t i = 1; i < frame->arguments.size; ++i)
    if (!is_known(argument(frame, i)->dtype))
      return "optadamw: the norm was called with a gradient of another dtype";
  return NULL;
}

static void add(char *sums, int64_t place, double more) {
  double sum;
  memcpy(&sum, sums + place * 8, 8);
  sum += more;
  memcpy(sums + place * 8, &sum, 8);
}

EXPORTED Error *HANDLER(CallFrame *frame) {
  if (answered(frame)) return NULL;
  const char *wrong = checked(frame);
  if (wrong) return error(frame, INVALID_ARGUMENT, wrong);
  const int64_t *sizes = attribute(frame, "sizes")->data;
  const int64_t rows = sizes[0], norms = sizes[1], gradients = frame->arguments.size - 1;
  const Array *members = attribute(frame, "members");
  double *squares = calloc((size_t)(rows * gradients + 1), sizeof(double));
  Job *job = job_of(frame, rows * gradients, sizes);
  if (!job || !squares) {
    if (job) let_go(job);
    free(squares);
    return no_memory(frame);
  }
  run(job);
  for (int64_t i = 0; i < job->first[job->chunks]; ++i)
    squares[job->pieces[i].leaf] += job->pieces[i].sum;
  let_go(job);
  char *sums = result(frame, 0)->data;
  if (sums != argument(frame, 0)->data)
    memcpy(sums, argument(frame, 0)->data, (size_t)(rows * norms) * 8);
  for (size_t i = 0; i < members->size; i += 2) {
    const int64_t *pair = (const int64_t *)members->data + i;
    for (int64_t row = 0; row < rows; ++row)
      add(sums, row * norms + pair[1], squares[pair[0] * rows + row]);
  }
  free(squares);
  float *found = result(frame, 1)->data;
  const Mode old = flush_denormals();
  for (int64_t i = 0; i < rows * norms; ++i) {
    double sum;
    memcpy(&sum, sums + i * 8, 8);
    const bool is_over = sizes[2] && sum > (double)FLT_MAX;
    found[i] = is_over ? __builtin_inff() : (float)__builtin_sqrt(sum);
  }
  restore(old);
  return NULL;
}
