/* Vectors of float32 and the functions of cells on them, for GCC and Clang.

   Polynomials are minimax fits made for this file; relative errors are below 3e-7 (tests/test_nas_backends_c_vectors.py).
   NaN goes through every function. No -ffast-math anywhere. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX__)
#define VL 8
#else
#define VL 4
#endif

#define INLINE static inline __attribute__((always_inline))
#define PAD(n) (((n) + VL - 1) / VL * VL)

typedef float V __attribute__((vector_size(4 * VL)));
typedef int32_t I __attribute__((vector_size(4 * VL)));
typedef float VU __attribute__((vector_size(4 * VL), aligned(4), may_alias));

INLINE V vset(float a) { return a - (V){0}; }

INLINE V vload(const float *p) { return (V)*(const VU *)p; }

INLINE void vstore(float *p, V a) { *(VU *)p = (VU)a; }

/* The first n of VL lanes; the others are loaded as 0 and not stored. n is a constant wherever speed matters. */
#if defined(__AVX512F__)
INLINE V vloadn(const float *p, int n) {
  return n == VL ? vload(p) : (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void vstoren(float *p, V a, int n) {
  if (n == VL) vstore(p, a);
  else _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)a);
}
INLINE V vkeep(V a, int n) {
  return n == VL ? a : (V)_mm512_maskz_mov_ps((__mmask16)((1u << n) - 1), (__m512)a);
}
#else
INLINE V vloadn(const float *p, int n) {
  if (n == VL) return vload(p);
  float t[VL] __attribute__((aligned(4 * VL))) = {0};
  for (int i = 0; i < n; i++) t[i] = p[i];
  return *(V *)t;
}
INLINE void vstoren(float *p, V a, int n) {
  if (n == VL) vstore(p, a);
  else for (int i = 0; i < n; i++) p[i] = a[i];
}
INLINE V vkeep(V a, int n) {
  if (n == VL) return a;
  float t[VL] __attribute__((aligned(4 * VL))) = {0};
  for (int i = 0; i < n; i++) t[i] = a[i];
  return *(V *)t;
}
#endif

#if defined(__AVX512F__)
INLINE float vsum(V a) { return _mm512_reduce_add_ps((__m512)a); }
#else
INLINE float vsum(V a) {
  float s[VL];
  vstore(s, a);
  for (int h = VL / 2; h; h /= 2) for (int i = 0; i < h; i++) s[i] += s[i + h];
  return s[0];
}
#endif

/* The sums of VL vectors, each in its lane: far fewer shuffles than one after the other. */
#if defined(__AVX512F__)
INLINE V vsums(const V *a) {
  __m512 u[8], v[4];
  for (int i = 0; i < 8; i++) {
    const __m512 b = (__m512)a[2 * i], c = (__m512)a[2 * i + 1];
    u[i] = _mm512_unpacklo_ps(b, c) + _mm512_unpackhi_ps(b, c);
  }
  for (int i = 0; i < 4; i++) {
    const __m512d b = (__m512d)u[2 * i], c = (__m512d)u[2 * i + 1];
    v[i] = (__m512)_mm512_unpacklo_pd(b, c) + (__m512)_mm512_unpackhi_pd(b, c);
  }
  const __m512 s = _mm512_shuffle_f32x4(v[0], v[1], 0x44) + _mm512_shuffle_f32x4(v[0], v[1], 0xee);
  const __m512 t = _mm512_shuffle_f32x4(v[2], v[3], 0x44) + _mm512_shuffle_f32x4(v[2], v[3], 0xee);
  return (V)(_mm512_shuffle_f32x4(s, t, 0x88) + _mm512_shuffle_f32x4(s, t, 0xdd));
}
#elif defined(__AVX__)
INLINE V vsums(const V *a) {
  __m256 u[4];
  for (int i = 0; i < 4; i++) u[i] = _mm256_hadd_ps((__m256)a[2 * i], (__m256)a[2 * i + 1]);
  const __m256 s = _mm256_hadd_ps(u[0], u[1]), t = _mm256_hadd_ps(u[2], u[3]);
  return (V)(_mm256_permute2f128_ps(s, t, 0x20) + _mm256_permute2f128_ps(s, t, 0x31));
}
#else
INLINE V vsums(const V *a) {
  V s;
  for (int i = 0; i < VL; i++) s[i] = vsum(a[i]);
  return s;
}
#endif

INLINE float vmaximum(V a, int n) {
  float s[VL];
  vstore(s, a);
  float m = s[0];
  for (int i = 1; i < n; i++) m = s[i] > m || s[i] != s[i] ? s[i] : m;
  return m;
}

/* Where the mask (-1 or 0 in each lane) is set, a, else b. */
INLINE V vsel(I mask, V a, V b) { return (V)((mask & (I)a) | (~mask & (I)b)); }

/* ---- primitives with rules for NaN ---- */

INLINE V vmax(V a, V b) { return vsel((a > b) | (a != a), a, b); }
INLINE V vmin(V a, V b) { return vsel((a < b) | (a != a), a, b); }
INLINE V vrelu(V a) { return vsel((a > 0) | (a != a), a, vset(0)); }
INLINE V vge(V a, V b) { return vsel(a >= b, vset(1), vset(0)); }
INLINE V vstep(V a) { return vsel(a > 0, vset(1), vset(0)); }
INLINE V vsign(V a) { return vstep(a) - vstep(-a); }
INLINE V vabs(V a) { return (V)((I)a & 0x7fffffff); }

/* The first n lanes; -inf in the others. */
INLINE V vfill(V a, int n) {
  if (n == VL) return a;
  for (int i = n; i < VL; i++) a[i] = -INFINITY;
  return a;
}

/* Between two numbers; NaN stays. */
#if defined(__AVX512F__)
INLINE V vclamp(V a, float lo, float hi) {
  return (V)_mm512_min_ps((__m512)vset(hi), _mm512_max_ps((__m512)vset(lo), (__m512)a));
}
#elif defined(__AVX__)
INLINE V vclamp(V a, float lo, float hi) {
  return (V)_mm256_min_ps((__m256)vset(hi), _mm256_max_ps((__m256)vset(lo), (__m256)a));
}
#else
INLINE V vclamp(V a, float lo, float hi) {
  a = vsel(a < lo, vset(lo), a);
  return vsel(a > hi, vset(hi), a);
}
#endif

#if defined(__AVX512F__)
INLINE V vsqrt(V a) { return (V)_mm512_sqrt_ps((__m512)a); }
#elif defined(__AVX__)
INLINE V vsqrt(V a) { return (V)_mm256_sqrt_ps((__m256)a); }
#else
INLINE V vsqrt(V a) {
  for (int i = 0; i < VL; i++) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
#endif
INLINE V vrecip(V a) { return 1.0f / a; }
INLINE V vrsqrt(V a) { return 1.0f / vsqrt(a); }

/* ---- exp and what is made of it ---- */

#define MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number, which its low bits then hold */

/* 2^n for whole n (as floats) from -126 to 127. */
INLINE V vpow2(V n) { return (V)((I)(n + (MAGIC + 127.0f)) << 23); }

/* exp(x) = 2^n (1 + t): n whole, t = expm1 of what is left, which is at most log(2) / 2. */
#define REDUCE(x)                                                                                  \
  V n = (x) * 1.44269504f + MAGIC;                                                                 \
  n = n - MAGIC;                                                                                   \
  V r = (x) - n * 0.693145752f;                                                                    \
  r = r - n * 1.42860682e-6f;                                                                      \
  V q = r * 0.00139504764f + 0.00836888235f;                                                       \
  q = q * r + 0.041666206f;                                                                        \
  q = q * r + 0.166665182f;                                                                        \
  q = q * r + 0.5f;                                                                                \
  V t = r + r * r * q;

INLINE V vexp(V x) {
  x = vclamp(x, -104.0f, 89.0f);
  REDUCE(x)
#if defined(__AVX512F__)
  return (V)_mm512_scalef_ps((__m512)(t + 1.0f), (__m512)n);
#else
  V half = n * 0.5f + MAGIC; /* two factors: 2^n alone leaves the range of exponents at both ends */
  half = half - MAGIC;
  return (t + 1.0f) * vpow2(half) * vpow2(n - half);
#endif
}

INLINE V vsigmoid(V x) { return 1.0f / (1.0f + vexp(-x)); }

/* tanh(x) = m / (m + 2) with m = expm1(2 x), exact to the last bits also near 0. */
INLINE V vtanh(V x) {
  x = vclamp(x + x, -40.0f, 40.0f);
  REDUCE(x)
  V s = vpow2(n);
  V m = t * s + (s - 1.0f);
  return m / (m + 2.0f);
}

/* log(1 + z) for sqrt(1/2) <= 1 + z <= sqrt(2). */
INLINE V vlog1p_(V z) {
  V p = z * 0.0691514909f - 0.117896855f;
  p = p * z + 0.118730098f;
  p = p * z - 0.123843715f;
  p = p * z + 0.142186567f;
  p = p * z - 0.166692495f;
  p = p * z + 0.200022265f;
  p = p * z - 0.249999866f;
  p = p * z + 0.333333105f;
  V s = z * z;
  return z + (s * z * p - s * 0.5f);
}

INLINE V vlog(V x) {
  I tiny = x < 1.17549435e-38f;
  V a = vsel(tiny, x * 8388608.0f, x);
  I e = ((I)a - 0x3f3504f3) >> 23; /* the exponent of a over sqrt(1/2) */
  V m = (V)((I)a - (e << 23));
  V n = __builtin_convertvector(e, V) - vsel(tiny, vset(23), vset(0));
  V y = vlog1p_(m - 1.0f);
  y = (y + n * 1.42860682e-6f) + n * 0.693145752f;
  y = vsel(x == INFINITY, x, y);
  y = vsel(x == 0.0f, vset(-INFINITY), y);
  return vsel((x < 0.0f) | (x != x), vset(NAN), y);
}

/* log(1 + u) for 0 <= u <= 1: where 1 + u > sqrt(2), as log(2) + log((1 + u) / 2), and (1 + u) / 2 - 1 = (u - 1) / 2. */
INLINE V vsoftplus(V x) {
  V u = vexp(-vabs(x));
  I big = u > 0.414213562f;
  V y = vlog1p_(vsel(big, u * 0.5f - 0.5f, u)) + vsel(big, vset(0.693147181f), vset(0));
  return vmax(x, vset(0)) + y;
}

INLINE V verf(V x) {
  V a = vabs(x), s = a * a;
  V p = s * 8.31677244e-05f - 0.000813001185f;
  p = p * s + 0.00519990642f;
  p = p * s - 0.0268589407f;
  p = p * s + 0.112836875f;
  p = p * s - 0.376126319f;
  p = p * s + 1.12837923f;
  p = p * x;
  V b = vclamp(a, 0.0f, 4.0f);
  V q = b * 0.000197182599f - 0.00305561535f;
  q = q * b + 0.0222771168f;
  q = q * b - 0.104037412f;
  q = q * b - 0.637059689f;
  q = q * b - 1.12774956f;
  q = q * b - 0.000177487498f;
  q = 1.0f - vexp(q);
  q = (V)((I)q | ((I)x & (int32_t)0x80000000));
  return vsel(a < 0.93f, p, q);
}

/* ---- sine and cosine: quarter turns taken off in three parts; far away, the C library ---- */

INLINE V vcircle_(V x, int cosine) {
  V n = x * 0.636619772f + MAGIC;
  I turn = (I)n + cosine;
  n = n - MAGIC;
  V r = x - n * 1.5703125f;
  r = r - n * 4.83751297e-4f;
  r = r - n * 7.54978995e-8f;
  V s = r * r;
  V a = s * 2.71831163e-06f - 0.000198393347f;
  a = a * s + 0.00833332911f;
  a = a * s - 0.166666672f;
  a = r + r * s * a;
  V b = s * 2.44384501e-05f - 0.00138873677f;
  b = b * s + 0.0416666456f;
  b = 1.0f - s * 0.5f + s * s * b;
  V y = vsel((turn & 1) != 0, b, a);
  return (V)((I)y ^ ((turn & 2) << 30));
}

static __attribute__((noinline, unused)) V vfar_(V x, int cosine) {
  for (int i = 0; i < VL; i++) x[i] = cosine ? cosf(x[i]) : sinf(x[i]);
  return x;
}

INLINE int vany_(I a) {
  int32_t s[VL], any = 0;
  memcpy(s, &a, sizeof s);
  for (int i = 0; i < VL; i++) any |= s[i];
  return any;
}

INLINE V vsin(V x) { return __builtin_expect(vany_(vabs(x) > 8000.0f), 0) ? vfar_(x, 0) : vcircle_(x, 0); }
INLINE V vcos(V x) { return __builtin_expect(vany_(vabs(x) > 8000.0f), 0) ? vfar_(x, 1) : vcircle_(x, 1); }

/* Sums over rows: n that are new at p are added to those at p + n, and begin again. */
static __attribute__((unused)) void flush(float *p, long n) {
  for (long j = 0; j < n; j += VL) {
    vstore(p + n + j, vload(p + n + j) + vload(p + j));
    vstore(p + j, (V){0});
  }
}
