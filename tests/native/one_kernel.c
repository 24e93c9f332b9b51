/* Runs a kernel on numbers from the standard input, and writes what it has made of them:
   a program for machines without JAX. The kernel's source stands before this file. */
#include <stdio.h>

int main(void) {
  int64_t sizes[2]; /* elements; those between two neighbours in a block */
  uint64_t scalars[SCALARS + 3];
  int64_t bytes[1 + HELD];
  const void *s[SCALARS + 3];
  void *x[1 + HELD];
  bool is_read = fread(sizes, sizeof sizes, 1, stdin) == 1 &&
                 fread(scalars, sizeof scalars, 1, stdin) == 1 &&
                 fread(bytes, sizeof bytes, 1, stdin) == 1;
  for (int j = 0; j < SCALARS + 3; ++j) s[j] = &scalars[j];
  for (int j = 0; is_read && j <= HELD; ++j) {
    x[j] = malloc((size_t)bytes[j]);
    is_read = x[j] && fread(x[j], (size_t)bytes[j], 1, stdin) == 1;
  }
  if (!is_read) return 1;
  const Mode old = flush_denormals();
  kernel(s, x, 0, sizes[0] / BLOCK, sizes[1]);
  restore(old);
  for (int j = 1; j <= HELD; ++j) fwrite(x[j], (size_t)bytes[j], 1, stdout);
  return 0;
}
