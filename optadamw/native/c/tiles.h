/* A leaf whose blocks are columns, in tiles of WIDTH blocks.

   A tile of one panel is computed where it lies. Columns beside the last such tile, and
   those of narrow panels, are copied beside each other, computed and copied back: one
   loop of known length serves all, and no register is filled in part.

   The source before this file defines BLOCK, WIDTH, ARRAYS, and for each array SIZES
   (the bytes of an element) and IS_OF_BLOCKS (whether it has one for each block). */
typedef void Tile(const void *const *s, void *const *x, int64_t stride, int64_t ahead,
                  const uint32_t *places, uint32_t step);

/* By how much the index of an element grows along a block: more than in the part of a
   leaf that a device has, if the leaf is divided along its columns (`skip` of step.h). */
static uint32_t step_of(const void *const *s, int64_t inner) {
  return (uint32_t)inner + *(const uint32_t *)s[SCALARS + 2];
}

/* Panels that are narrower are copied beside each other; the others begin a tile. */
enum { NARROW = 4 * WIDTH };

/* Copies some columns of a panel to the place `to` of a tile, or back from there. */
static void copy(char *const *tile, void *const *x, int64_t first, int64_t inner,
                 int32_t to, int32_t columns, bool is_back) {
  const int64_t base = first / inner * BLOCK * inner + first % inner;
  for (int32_t a = is_back; a < ARRAYS; ++a)
    for (int32_t k = 0; k < (IS_OF_BLOCKS[a] ? 1 : BLOCK); ++k) {
      char *there = tile[a] + (k * WIDTH + to) * SIZES[a];
      char *here =
          (char *)x[a] + (IS_OF_BLOCKS[a] ? first : base + k * inner) * SIZES[a];
      memcpy(is_back ? here : there, is_back ? there : here, columns * SIZES[a]);
    }
}

static void run_copies(Tile *run, const void *const *s, void *const *x, int64_t first,
                       int64_t inner, int32_t width, uint32_t *places) {
  _Alignas(64) char room[ARRAYS][WIDTH * BLOCK * LARGEST_SIZE];
  void *tile[ARRAYS];
  for (int32_t a = 0; a < ARRAYS; ++a) tile[a] = room[a];
  if (width < WIDTH) memset(room, 0, sizeof room);
  for (int32_t is_back = 0; is_back < 2; ++is_back) {
    for (int32_t to = 0, columns; to < width; to += columns) {
      const int64_t from = first + to, column = from % inner;
      columns = width - to < inner - column ? width - to : (int32_t)(inner - column);
      copy((char *const *)tile, x, from, inner, to, columns, is_back);
      for (int32_t i = 0; i < columns; ++i)
        places[to + i] = (uint32_t)(from / inner * BLOCK * inner + column + i);
    }
    if (!is_back) run(s, tile, WIDTH, 0, places, step_of(s, inner));
  }
}

static void run_tiles(Tile *run, const void *const *s, void *const *x, int64_t at,
                      int64_t n, int64_t inner) {
  uint32_t places[WIDTH] = {0};
  for (int64_t done = 0, width; done < n; done += width) {
    const int64_t first = at + done, column = first % inner;
    const int64_t base = first / inner * BLOCK * inner + column;
    width = n - done < WIDTH ? n - done : WIDTH;
    if (width < WIDTH || column + WIDTH > inner) {
      if (inner >= NARROW && width > inner - column) width = inner - column;
      run_copies(run, s, x, first, inner, (int32_t)width, places);
      continue;
    }
    void *tile[ARRAYS];
    for (int32_t a = 0; a < ARRAYS; ++a)
      tile[a] = (char *)x[a] + (IS_OF_BLOCKS[a] ? first : base) * SIZES[a];
    for (int32_t i = 0; i < WIDTH; ++i) places[i] = (uint32_t)base + (uint32_t)i;
    const int64_t ahead = column + WIDTH < inner ? WIDTH : BLOCK * inner - column;
    run(s, tile, inner, ahead, places, step_of(s, inner));
  }
}
