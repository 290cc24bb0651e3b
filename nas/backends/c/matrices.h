
/* ---- small matrix products inside a sweep: C = A W, W packed in panels of NV vectors of columns ---- */

#if defined(__AVX512F__)
#define MR 8 /* rows of a register tile: MR * NV sums, the panel's row, and one entry of A fit the registers */
#else
#define MR 6
#endif
#define NV 2
#define NR (NV * VL)

/* Floats that a packed matrix with n columns and k rows takes. */
#define PACKED(k, n) ((long)(k) * PAD(n))

/* Pack columns 0..n-1 of a matrix with the entry (row, column) at w[row * sr + column * sc]. */
static __attribute__((unused)) void pack(float *p, const float *w, long k, long n, long sr, long sc) {
  for (long j = 0; j < n; j += NR) {
    const long wide = PAD(n - j) < NR ? PAD(n - j) : NR, used = n - j < wide ? n - j : wide; /* as in product() */
    if (sc == 1) {
      for (long i = 0; i < k; i++, p += wide) {
        memcpy(p, w + i * sr + j, used * 4);
        for (long c = used; c < wide; c++) p[c] = 0;
      }
    } else {
      for (long c = 0; c < used; c++) {
        const float *from = w + (j + c) * sc;
        for (long i = 0; i < k; i++) p[i * wide + c] = from[i * sr];
      }
      for (long c = used; c < wide; c++) for (long i = 0; i < k; i++) p[i * wide + c] = 0;
      p += k * wide;
    }
  }
}

/* One register tile: m rows, nv vectors of columns, of which the last has `last` lanes. add: C += A W.
   Entries of A along k are ka apart, rows of W kp. */
INLINE void tile(const int m, const int nv, long k, const float *a, long sa, const long ka, const float *p,
                 const long kp, float *c, long sc, const int add, const int last) {
  V s[MR][NV];
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++)
    _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++)
      s[i][v] = add ? vloadn(c + i * sc + v * VL, v == nv - 1 ? last : VL) : (V){0};
  _Pragma("GCC unroll 2") for (long q = 0; q < k; q++, p += kp) {
    V b[NV];
    _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++) b[v] = kp == nv * VL ? vload(p + v * VL) : vloadn(p + v * VL, v == nv - 1 ? last : VL);
    _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
      const V e = vset(a[i * sa + q * ka]);
      _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++) s[i][v] += e * b[v];
    }
  }
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++)
    _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++)
      vstoren(c + i * sc + v * VL, s[i][v], v == nv - 1 ? last : VL);
}

/* One panel for all rows; nv and last are constants where this is called. */
INLINE void panel(const int nv, long m, long k, const float *a, long sa, const long ka, const float *p,
                  const long kp, float *c, long sc, const int add, const int last) {
  long i = 0;
  for (; i + MR <= m; i += MR) tile(MR, nv, k, a + i * sa, sa, ka, p, kp, c + i * sc, sc, add, last);
  if (MR > 4 && i + 4 <= m) {
    tile(4, nv, k, a + i * sa, sa, ka, p, kp, c + i * sc, sc, add, last);
    i += 4;
  }
  if (i + 2 <= m) {
    tile(2, nv, k, a + i * sa, sa, ka, p, kp, c + i * sc, sc, add, last);
    i += 2;
  }
  if (i < m) tile(1, nv, k, a + i * sa, sa, ka, p, kp, c + i * sc, sc, add, last);
}

/* C [n, w] += A [r, n]^T B [r, w], all without gaps. */
static __attribute__((noinline, unused)) void gram(long r, long n, long w, const float *a, const float *b, float *c) {
  long j = 0;
  for (; j + NR <= w; j += NR) panel(NV, n, r, a, 1, n, b + j, w, c + j, w, 1, VL);
  for (; j < w; j += VL) panel(1, n, r, a, 1, n, b + j, w, c + j, w, 1, w - j < VL ? w - j : VL);
}

static __attribute__((noinline, unused)) void panel_full(long m, long k, const float *a, long sa, const float *p,
                                                         float *c, long sc, int add) {
  if (add) panel(NV, m, k, a, sa, 1, p, NR, c, sc, 1, VL);
  else panel(NV, m, k, a, sa, 1, p, NR, c, sc, 0, VL);
}

static __attribute__((noinline, unused)) void panel_two(long m, long k, const float *a, long sa, const float *p,
                                                        float *c, long sc, int add, int last) {
  panel(2, m, k, a, sa, 1, p, 2 * VL, c, sc, add, last);
}

static __attribute__((noinline, unused)) void panel_one(long m, long k, const float *a, long sa, const float *p,
                                                        float *c, long sc, int add, int last) {
  panel(1, m, k, a, sa, 1, p, VL, c, sc, add, last);
}

/* C [m, n] = A [m, k] W, or += where add; W packed. Rows of A and C are sa and sc apart. */
static __attribute__((unused)) void product(long m, long n, long k, const float *a, long sa, const float *w, float *c,
                                            long sc, int add) {
  long j = 0;
  for (; j + NR <= n; j += NR, w += k * NR) panel_full(m, k, a, sa, w, c + j, sc, add);
  const long rest = n - j;
  if (rest > VL) panel_two(m, k, a, sa, w, c + j, sc, add, rest - VL);
  else if (rest) panel_one(m, k, a, sa, w, c + j, sc, add, rest);
}
