/* Numbers as XLA's CPU backend computes them. Threads flush denormals to zero, products
   are contracted where the source says FMA, and nowhere else. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FMA__) || defined(__aarch64__)
#define FMAf(a, b, c) __builtin_fmaf(a, b, c)
#define FMA(a, b, c) __builtin_fma(a, b, c)
#else
#define FMAf(a, b, c) ((a) * (b) + (c))
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

/* A product with a number that the compiler does not know flushes a denormal, and
   keeps the sign of a zero. */
static const float ONE = 1.0f;

/* Numbers of 16 bits are kept as bits, with which C does not compute: clang 14 has no
   float16 on x86-64, and gcc 12 makes scalar code of loops with one. */
typedef uint16_t bf16;
typedef uint16_t f16;

#define BITS(from, from_type, to, to_type)                 \
  static inline to_type from##_as_##to(from_type x) {      \
    to_type y;                                             \
    memcpy(&y, &x, sizeof y);                              \
    return y;                                              \
  }
BITS(float32, float, uint32, uint32_t)
BITS(float32, float, int32, int32_t)
BITS(uint32, uint32_t, float32, float)
BITS(int32, int32_t, float32, float)
BITS(uint32, uint32_t, int32, int32_t)
BITS(int32, int32_t, uint32, uint32_t)
BITS(float64, double, uint64, uint64_t)
BITS(uint64, uint64_t, float64, double)
BITS(bfloat16, bf16, uint16, uint16_t)
BITS(uint16, uint16_t, bfloat16, bf16)
BITS(float16, f16, uint16, uint16_t)
BITS(uint16, uint16_t, float16, f16)

static inline float from_bf16(bf16 x) {
  return uint32_as_float32((uint32_t)x << 16);
}

/* To nearest, ties to even; a NaN stays one. */
static inline bf16 to_bf16(float x) {
  const uint32_t bits = float32_as_uint32(x);
  const uint32_t even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  return (bf16)(x != x ? nan : even);
}

/* Exact; a NaN is made quiet. Denormals are numbers: their loads are integers. */
static inline float from_f16(f16 x) {
  const uint32_t size = x & 0x7fffu;
  const uint32_t quiet = size > 0x7c00u ? 0x400000u : 0u;
  const uint32_t tiny = float32_as_uint32((float)(int32_t)size * 0x1p-24f);
  const uint32_t up = size < 0x7c00u ? 0x38000000u : 0x70000000u; /* 112, 224 << 23 */
  const uint32_t bits = size < 0x400u ? tiny : ((size << 13) + up) | quiet;
  return uint32_as_float32(bits | (uint32_t)(x & 0x8000u) << 16);
}

/* To nearest, ties to even, to infinity from 65520; a NaN becomes quiet. A sum with 0.5,
   whose last digit is 2**-24, rounds to a denormal. The NaN is found by its bits: with
   x != x, gcc 12 for SVE makes 0 of numbers that were chosen between x and 0. */
static inline f16 to_f16(float x) {
  const uint32_t bits = float32_as_uint32(x), size = bits & 0x7fffffffu;
  const uint32_t tiny = float32_as_uint32(uint32_as_float32(size) + 0.5f) - 0x3f000000u;
  const uint32_t nearest = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
  const uint32_t finite = size < 0x38800000u ? tiny : nearest;
  const uint32_t other = size > 0x7f800000u ? 0x7e00u | (size >> 13 & 0x3ffu) : 0x7c00u;
  return (f16)((size < 0x47800000u ? finite : other) | (bits >> 16 & 0x8000u));
}

/* +0.0 is larger than -0.0, a NaN wins. Against a constant of normal size one
   comparison is enough: gcc 12 makes masks in general registers of nested choices, and a
   step of AdamW then takes 1.7 times as long. */
#define IS_NORMAL(x, normal) \
  (__builtin_constant_p(x) && ((x) >= (normal) || (x) <= -(normal)))
#define EXTREMES(name, type, bits, normal)                                     \
  static inline type max_##name(type a, type b, type one) {                    \
    const type zero = bits##_as_##name(name##_as_##bits(a) & name##_as_##bits(b)); \
    if (IS_NORMAL(a, normal)) return (a > b ? a : b) * one;                    \
    if (IS_NORMAL(b, normal)) return (b > a ? b : a) * one;                    \
    const type most = (a > b ? a : a < b ? b : a == b ? zero : a + b);         \
    return most * one;                                                         \
  }                                                                            \
  static inline type min_##name(type a, type b, type one) {                    \
    const type zero = bits##_as_##name(name##_as_##bits(a) | name##_as_##bits(b)); \
    if (IS_NORMAL(a, normal)) return (a < b ? a : b) * one;                    \
    if (IS_NORMAL(b, normal)) return (b < a ? b : a) * one;                    \
    const type least = (a < b ? a : a > b ? b : a == b ? zero : a + b);        \
    return least * one;                                                        \
  }                                                                            \
  static inline type sign_##name(type x, type one) {                           \
    return x > 0 ? (type)1 : x < 0 ? (type)-1 : x * one;                       \
  }
EXTREMES(float32, float, uint32, __FLT_MIN__)
EXTREMES(float64, double, uint64, __DBL_MIN__)

/* The neighbor of `x` in the direction of `to`; `bits` are those of a float. */
#define NEXT(name, type, bits, bits_type, wide, sign_bit)                      \
  static inline type nextafter_##name(type x, type to) {                       \
    const bits_type from_bits = name##_as_##bits(x);                           \
    const bits_type to_bits = name##_as_##bits(to);                            \
    const bits_type size = (bits_type)(from_bits & (bits_type)~sign_bit);      \
    const bits_type smallest = (bits_type)((to_bits & sign_bit) | 1u);         \
    const bool shrinks =                                                       \
        ((from_bits ^ to_bits) & sign_bit) != 0 ||                             \
        size > (bits_type)(to_bits & (bits_type)~sign_bit);                    \
    const bits_type moved = (bits_type)(shrinks ? from_bits - 1u : from_bits + 1u); \
    const bits_type made = size == 0 ? smallest : moved;                       \
    return wide(x) == wide(to) ? to                                            \
           : wide(x) != wide(x) || wide(to) != wide(to)                        \
               ? bits##_as_##name((bits_type)(from_bits | to_bits))            \
               : bits##_as_##name(made);                                       \
  }
NEXT(bfloat16, bf16, uint16, uint16_t, from_bf16, 0x8000u)
NEXT(float16, f16, uint16, uint16_t, from_f16, 0x8000u)

/* A shift by the width or more gives zeros, or copies of the sign. */
#define SHIFT(name, type, unsigned_type, width)                                \
  static inline type shift_left_##name(type x, type by) {                      \
    return (unsigned_type)by < width ? (type)((unsigned_type)x << by) : 0;     \
  }                                                                            \
  static inline type shift_right_logical_##name(type x, type by) {             \
    return (unsigned_type)by < width ? (type)((unsigned_type)x >> by) : 0;     \
  }                                                                            \
  static inline type shift_right_arithmetic_##name(type x, type by) {          \
    return x >> ((unsigned_type)by < width ? by : width - 1);                  \
  }
SHIFT(uint32, uint32_t, uint32_t, 32)
SHIFT(int32, int32_t, uint32_t, 32)
SHIFT(uint64, uint64_t, uint64_t, 64)
SHIFT(int64, int64_t, uint64_t, 64)
