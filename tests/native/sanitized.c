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

#define WHOLE(n) ((n) / UNIT * UNIT)
static const int64_t sizes[LEAVES] = {
    0, UNIT, 17 * UNIT, WHOLE(65536 + UNIT - 1), WHOLE(65537), WHOLE(300001)};

int main(void) {
  float scalar = 0.5f;
  uint8_t go = 1;
  enum { ARRAYS = LEAVES * (1 + HELD), ARGUMENTS = 2 + ARRAYS };
  Buffer buffers[ARGUMENTS];
  void *arguments[ARGUMENTS], *results[LEAVES * HELD];
  int64_t none = 0, dims[LEAVES], indices[LEAVES * SCALARS + 1], positions[LEAVES], inner[LEAVES];
  for (int i = 0; i < LEAVES; ++i) dims[i] = sizes[i], positions[i] = i, inner[i] = INNER;
  for (int i = 0; i < LEAVES * SCALARS; ++i) indices[i] = 1;
  buffers[0] = (Buffer){.data = &go, .rank = 0, .dims = &none};
  buffers[1] = (Buffer){.data = &scalar, .rank = 0, .dims = &none};
  for (int i = 0; i < ARRAYS; ++i) {
    const int64_t bytes = BYTES(i / LEAVES, sizes[i % LEAVES]);
    float *data = malloc((size_t)bytes);
    /* Codes and scales of 0 are numbers too. */
    memset(data, 0, (size_t)bytes);
    if (bytes == sizes[i % LEAVES] * (int64_t)sizeof(float))
      for (int64_t j = 0; j < sizes[i % LEAVES]; ++j) data[j] = 0.25f;
    buffers[2 + i] = (Buffer){.data = data, .rank = 1, .dims = &dims[i % LEAVES]};
  }
  for (int i = 0; i < ARGUMENTS; ++i) arguments[i] = &buffers[i];
  for (int i = 0; i < LEAVES * HELD; ++i) results[i] = &buffers[2 + LEAVES + i];
  Array attributes[3] = {
      {0, LEAVES, positions}, {0, LEAVES * SCALARS, indices}, {0, LEAVES, inner}};
  Span spans[3] = {{"positions", 9}, {"scalars", 7}, {"inner", 5}};
  Span *names[3] = {&spans[0], &spans[1], &spans[2]};
  void *values[3] = {&attributes[0], &attributes[1], &attributes[2]};
  CallFrame frame = {.api = &api,
                     .stage = EXECUTE,
                     .arguments = {.size = ARGUMENTS, .values = arguments},
                     .results = {.size = LEAVES * HELD, .values = results},
                     .attributes = {.size = 3, .names = names, .values = values}};
  for (int turn = 0; turn < 8; ++turn) {
    go = turn != 3;
    failing = turn == 5;
    if (HANDLER(&frame)) return 1;
  }
  const float *param = buffers[2 + LEAVES + LEAVES - 1].data;
  int is_changed = param[0] != 0.25f && param[0] == param[sizes[LEAVES - 1] - 1];
  /* Each chunk was run once in each turn, by whichever thread. Elements in blocks are
     rounded at random. */
  for (int64_t i = 1; BLOCK == 1 && i < sizes[LEAVES - 1]; ++i)
    is_changed &= param[i] == param[0];
  frame.arguments.size = 1; /* the operands of another kernel */
  if (!HANDLER(&frame) || errors != 1) return 2;
  join();
  for (int i = 0; i < ARRAYS; ++i) free(buffers[2 + i].data);
  puts(is_changed ? "done" : "unchanged");
  return 0;
}
