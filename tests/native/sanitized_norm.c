/* Calls the norm as XLA does, in a program of its own that sanitizers watch: gradients of
   many sizes and of three dtypes, each in a block of exactly its bytes, two rows each.
   The source of the norm and `sanitized_pool.c` stand before this file. */

enum { GRADIENTS = 7, ROWS = 2, NORMS = 2 };
static const int64_t sizes[GRADIENTS] = {0, 1, 63, 65, 65536, 65537, 300001};
static const int dtypes[GRADIENTS] = {FLOAT32, FLOAT32,  BFLOAT16, FLOAT16,
                                      FLOAT32, BFLOAT16, FLOAT32};

int main(void) {
  Buffer buffers[1 + GRADIENTS + 2];
  void *arguments[1 + GRADIENTS], *results[2];
  int64_t dims[GRADIENTS], pairs[2 * GRADIENTS + 2], shape[3] = {ROWS, NORMS, 1};
  int64_t of_sums = 2 * ROWS * NORMS, of_norms = ROWS * NORMS;
  for (int i = 0; i < GRADIENTS; ++i) {
    const size_t width = dtypes[i] == FLOAT32 ? 4 : 2;
    dims[i] = ROWS * sizes[i];
    /* The bits of a small number in each dtype. */
    uint8_t *data = malloc((size_t)dims[i] * width);
    memset(data, 0x3d, (size_t)dims[i] * width);
    buffers[1 + i] = (Buffer){
        .dtype = dtypes[i], .data = data, .rank = 1, .dims = &dims[i]};
    pairs[2 * i] = i, pairs[2 * i + 1] = 0;
  }
  pairs[2 * GRADIENTS] = 1, pairs[2 * GRADIENTS + 1] = 1;
  buffers[0] = (Buffer){.data = calloc((size_t)of_sums, 4), .rank = 1, .dims = &of_sums};
  void *sums = malloc((size_t)of_sums * 4);
  float *norms = malloc((size_t)of_norms * 4);
  buffers[1 + GRADIENTS] = (Buffer){.data = sums, .rank = 1, .dims = &of_sums};
  buffers[2 + GRADIENTS] = (Buffer){.data = norms, .rank = 1, .dims = &of_norms};
  for (int i = 0; i <= GRADIENTS; ++i) arguments[i] = &buffers[i];
  for (int i = 0; i < 2; ++i) results[i] = &buffers[1 + GRADIENTS + i];
  Array attributes[2] = {{0, 3, shape}, {0, 2 * GRADIENTS + 2, pairs}};
  Span spans[2] = {{"sizes", 5}, {"members", 7}};
  Span *names[2] = {&spans[0], &spans[1]};
  void *values[2] = {&attributes[0], &attributes[1]};
  CallFrame frame = {.api = &api,
                     .stage = EXECUTE,
                     .arguments = {.size = 1 + GRADIENTS, .values = arguments},
                     .results = {.size = 2, .values = results},
                     .attributes = {.size = 2, .names = names, .values = values}};
  float first[ROWS * NORMS];
  int is_equal = 1;
  for (int turn = 0; turn < 8; ++turn) {
    failing = turn == 5;
    if (HANDLER(&frame)) return 1;
    if (turn == 0) memcpy(first, norms, sizeof first);
    is_equal &= !memcmp(first, norms, sizeof first);
  }
  is_equal &= norms[0] == norms[NORMS] && norms[0] > norms[1] && norms[1] > 0;
  buffers[1].dtype = 12; /* a float64 */
  if (!HANDLER(&frame) || errors != 1) return 2;
  join();
  for (int i = 0; i <= GRADIENTS + 2; ++i) free(buffers[i].data);
  puts(is_equal ? "done" : "unequal");
  return 0;
}
