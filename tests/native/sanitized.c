/* Calls a handler as XLA does, in a program of its own that sanitizers watch: leaves of
   many sizes, each array in a block of exactly its bytes. The kernel's source and
   `sanitized_pool.c` stand before this file. */
/* The last axis of a block, the elements that a leaf can have, and the bytes of array j
   of a leaf of n elements; the gradient is array 0. */
#ifndef INNER
#define INNER 1
#define BYTES(j, n) ((n) * sizeof(float))
#endif
enum { LEAVES = 6, UNIT = BLOCK * INNER };

/* CUT: whether leaves are parts of larger ones, of 5 times 2 rows of 3 blocks, and this
   device is the last of 4 and 2 along the axes of a mesh. */
#ifndef CUT
#define CUT 0
#endif
enum { AXES = 2, LEVELS = 2, OF_LEAF = 2 + AXES + 2 * LEVELS };
static const int64_t one_leaf[OF_LEAF] = {3, 64, 4096, 1 << 20, 5, 96, 2, 7};

#define WHOLE(n) ((n) / UNIT * UNIT)
static const int64_t sizes[LEAVES] = {
    0, UNIT, 17 * UNIT, WHOLE(65536 + UNIT - 1), WHOLE(65537), WHOLE(300001)};

int main(void) {
  float scalar = 0.5f;
  uint8_t go = 1;
  enum { FIRST = 3, ARRAYS = LEAVES * (1 + HELD), ARGUMENTS = FIRST + ARRAYS };
  Buffer buffers[ARGUMENTS];
  void *arguments[ARGUMENTS], *results[LEAVES * HELD];
  int64_t none = 0, dims[LEAVES], indices[LEAVES * SCALARS + 1], positions[LEAVES], inner[LEAVES];
  for (int i = 0; i < LEAVES; ++i) dims[i] = sizes[i], positions[i] = i, inner[i] = INNER;
  for (int i = 0; i < LEAVES * SCALARS; ++i) indices[i] = 1;
  buffers[0] = (Buffer){.data = &go, .rank = 0, .dims = &none};
  buffers[1] = (Buffer){.data = &scalar, .rank = 0, .dims = &none};
  int64_t axes = AXES;
  uint32_t *device = malloc(AXES * sizeof *device);
  device[0] = 3, device[1] = 1;
  buffers[2] = (Buffer){.data = device, .rank = 1, .dims = &axes};
  int64_t size = CUT ? HEAD + LEAVES * OF_LEAF : 0;
  int64_t *parts = malloc(size * sizeof *parts);
  for (int64_t i = 0; i < size; ++i)
    parts[i] = i < HEAD ? (int64_t[]){2, AXES, LEVELS}[i] : one_leaf[(i - HEAD) % OF_LEAF];
  for (int i = 0; i < ARRAYS; ++i) {
    const int64_t bytes = BYTES(i / LEAVES, sizes[i % LEAVES]);
    float *data = malloc((size_t)bytes);
    /* Codes and scales of 0 are numbers too. */
    memset(data, 0, (size_t)bytes);
    if (bytes == sizes[i % LEAVES] * (int64_t)sizeof(float))
      for (int64_t j = 0; j < sizes[i % LEAVES]; ++j) data[j] = 0.25f;
    buffers[FIRST + i] = (Buffer){.data = data, .rank = 1, .dims = &dims[i % LEAVES]};
  }
  for (int i = 0; i < ARGUMENTS; ++i) arguments[i] = &buffers[i];
  for (int i = 0; i < LEAVES * HELD; ++i) results[i] = &buffers[FIRST + LEAVES + i];
  Array attributes[4] = {{0, LEAVES, positions},
                         {0, LEAVES * SCALARS, indices},
                         {0, LEAVES, inner},
                         {0, (size_t)size, parts}};
  Span spans[4] = {{"positions", 9}, {"scalars", 7}, {"inner", 5}, {"parts", 5}};
  Span *names[4];
  void *values[4];
  for (int i = 0; i < 4; ++i) names[i] = &spans[i], values[i] = &attributes[i];
  CallFrame frame = {.api = &api,
                     .stage = EXECUTE,
                     .arguments = {.size = ARGUMENTS, .values = arguments},
                     .results = {.size = LEAVES * HELD, .values = results},
                     .attributes = {.size = 4, .names = names, .values = values}};
  for (int turn = 0; turn < 8; ++turn) {
    go = turn != 3;
    failing = turn == 5;
    if (HANDLER(&frame)) return 1;
  }
  const float *param = buffers[FIRST + LEAVES + LEAVES - 1].data;
  int is_changed = param[0] != 0.25f && param[sizes[LEAVES - 1] - 1] != 0.25f;
  /* Each chunk was run once in each turn, by whichever thread. Elements in blocks are
     rounded at random, and so are those of parts. */
  for (int64_t i = 1; BLOCK == 1 && !CUT && i < sizes[LEAVES - 1]; ++i)
    is_changed &= param[i] == param[0];
  attributes[3].size -= CUT; /* parts of other leaves */
  if (CUT && !HANDLER(&frame)) return 2;
  frame.arguments.size = 1; /* the operands of another kernel */
  if (!HANDLER(&frame) || errors != 1 + CUT) return 3;
  join();
  free(device);
  free(parts);
  for (int i = 0; i < ARRAYS; ++i) free(buffers[FIRST + i].data);
  puts(is_changed ? "done" : "unchanged");
  return 0;
}
