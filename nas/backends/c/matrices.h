
/* ---- matrix products, in a library that all cells share: C = A W, W packed in panels of NV vectors of columns ---- */

#if defined(__AVX512F__)
#define MR 8 /* rows of a register tile: MR * NV sums, the panel's row, and one entry of A fit the registers */
#else
#define MR 6
#endif
#define NV 2
#define NR (NV * VL)
#define NEAR 32 /* rows of A that stay near while all panels pass */
#define DEEP 128 /* terms of a sum before it is put by, see `tile` */
#define LARGE (1 << 18) /* floats of a C = A^T B that is large */
#define DEEPER 256 /* the same where putting it by costs more */

/* How wide the panel of packed columns is that begins at column j of n. */
INLINE long wide(long n, long j) { return PAD(n - j) < NR ? PAD(n - j) : NR; }

/* Put w [k, n], its entry (row, column) at w[row * sr + column * sc], into a packed matrix of K rows and N columns,
   at row i0 and column j0. Columns beyond N are zero. */
void recell_pack(float *p, long K, long N, long i0, long j0, const float *w, long k, long n, long sr, long sc) {
  for (long j = 0; j < n;) {
    const long at = (j0 + j) / NR * NR, own = wide(N, at), c = j0 + j - at, used = n - j < own - c ? n - j : own - c;
    float *to = p + at * K + i0 * own + c;
    const float *from = w + j * sc;
    if (sc == 1) for (long i = 0; i < k; i++) memcpy(to + i * own, from + i * sr, used * 4);
    else for (long b = 0; b < used; b += 8) {
      const long few = used - b < 8 ? used - b : 8;
      for (long i = 0; i < k; i++) for (long q = 0; q < few; q++) to[i * own + b + q] = from[i * sr + (b + q) * sc];
    }
    j += used;
  }
  if (j0 + n == N && PAD(N) != N) {
    const long at = N / NR * NR, own = wide(N, at);
    for (long i = i0; i < i0 + k; i++) for (long c = N - at; c < own; c++) p[at * K + i * own + c] = 0;
  }
}

/* One register tile: m rows, nv vectors of columns, of which the last has `last` lanes. add: C += A W.
   Entries of A along k are ka apart, rows of W kp. What is there is added last: each term of a sum rounds all that was
   summed before it, so sums of parts err less than one long sum, and cost the same. */
INLINE void tile(const int m, const int nv, long k, const float *a, long sa, const long ka, const float *p,
                 const long kp, float *c, long sc, const int add, const int last) {
  V s[MR][NV];
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++)
    _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++)
      s[i][v] = (V){0};
  _Pragma("GCC unroll 2") for (long q = 0; q < k; q++, p += kp) {
    V b[NV];
    _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++)
      b[v] = kp == nv * VL ? vload(p + v * VL) : vloadn(p + v * VL, v == nv - 1 ? last : VL);
    _Pragma("GCC unroll 8") for (int i = 0; i < m; i++) {
      const V e = vset(a[i * sa + q * ka]);
      _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++) s[i][v] += e * b[v];
    }
  }
  _Pragma("GCC unroll 8") for (int i = 0; i < m; i++)
    _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++) {
      const int lanes = v == nv - 1 ? last : VL;
      float *to = c + i * sc + v * VL;
      vstoren(to, add ? s[i][v] + vloadn(to, lanes) : s[i][v], lanes);
    }
}

/* One panel for all rows; nv, and mostly last, are constants where this is called. */
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

#define SMALL static __attribute__((noinline)) void
#define PANEL long m, long k, const float *a, long sa, const float *p, float *c, long sc
SMALL whole_set(PANEL) { panel(NV, m, k, a, sa, 1, p, NR, c, sc, 0, VL); }
SMALL whole_add(PANEL) { panel(NV, m, k, a, sa, 1, p, NR, c, sc, 1, VL); }
SMALL two(PANEL, int add, int last) { panel(2, m, k, a, sa, 1, p, 2 * VL, c, sc, add, last); }
SMALL one(PANEL, int add, int last) { panel(1, m, k, a, sa, 1, p, VL, c, sc, add, last); }

/* C [m, n] = A [m, k] W, or += where add; W packed. Rows of A and C are sa and sc apart. */
void recell_product(long m, long n, long k, const float *a, long sa, const float *w, float *c, long sc, int add) {
  const long whole = n / NR * NR, rest = n - whole, own = rest > VL ? 2 * VL : VL;
  long q = 0, d;
  do {
    d = k - q <= DEEP ? k - q : k - q < 2 * DEEP ? (k - q + 1) / 2 : DEEP;
    long j = 0;
    for (; j < whole; j += NR) {
      if (add) whole_add(m, d, a + q, sa, w + j * k + q * NR, c + j, sc);
      else whole_set(m, d, a + q, sa, w + j * k + q * NR, c + j, sc);
    }
    if (rest > VL) two(m, d, a + q, sa, w + j * k + q * own, c + j, sc, add, rest - VL);
    else if (rest) one(m, d, a + q, sa, w + j * k + q * own, c + j, sc, add, rest);
    q += d, add = 1;
  } while (q < k);
}

/* The same for many rows. */
void recell_rows(long m, long n, long k, const float *a, long sa, const float *w, float *c, long sc, int add) {
  for (long i = 0; i < m; i += NEAR)
    recell_product(m - i < NEAR ? m - i : NEAR, n, k, a + i * sa, sa, w, c + i * sc, sc, add);
}

SMALL gram_whole(long n, long r, const float *a, long sa, const float *b, long sb, float *c, long sc, int add) {
  panel(NV, n, r, a, 1, sa, b, sb, c, sc, add, VL);
}
SMALL gram_rest(long n, long r, const float *a, long sa, const float *b, long sb, float *c, long sc, int add, int last) {
  panel(1, n, r, a, 1, sa, b, sb, c, sc, add, last);
}

#define BLOCK (32 * MR) /* columns of A that are put together */

/* d rows of A [d, n] as strips of MR columns, one behind the other. */
static void strips(float *to, long d, long n, const float *a, long sa) {
  for (long i = 0; i < n; i += 2 * MR)
    if (i + MR < n) for (long q = 0; q < d; q++) {
      memcpy(to + i * d + q * MR, a + q * sa + i, 4 * MR);
      memcpy(to + (i + MR) * d + q * MR, a + q * sa + i + MR, 4 * MR);
    }
    else for (long q = 0; q < d; q++) memcpy(to + i * d + q * MR, a + q * sa + i, 4 * MR);
}

SMALL strip_whole(long n, long d, const float *a, const float *b, float *c, long sc, int add) {
  for (long i = 0; i < n; i += MR) tile(MR, NV, d, a + i * d, 1, MR, b, NR, c + i * sc, sc, add, VL);
}

/* The same for whole strips and panels of large A and B. Where their rows are a power of two apart, as they often are,
   those of a tile compete for few places of the cache; so they are put together first, in `room`. */
static void gram_together(long d, long n, long w, const float *a, long sa, const float *b, long sb, float *c, long sc,
                          int add, float *room) {
  float *panels = room, *own = room + d * w;
  recell_pack(panels, d, w, 0, 0, b, d, w, sb, 1);
  for (long i = 0; i < n; i += BLOCK) {
    const long few = n - i < BLOCK ? n - i : BLOCK;
    strips(own, d, few, a + i, sa);
    for (long j = 0; j < w; j += NR) strip_whole(few, d, own, panels + j * d, c + i * sc + j, sc, add);
  }
}

/* C [n, w] = A [r, n]^T B [r, w], or += where add. */
void recell_gram(long r, long n, long w, const float *a, long sa, const float *b, long sb, float *c, long sc, int add) {
  if (!r && !add) for (long i = 0; i < n; i++) memset(c + i * sc, 0, 4 * w);
  const long deep = n * w > LARGE ? DEEPER : DEEP; /* where C is large, it is better passed seldom */
  const long wider = w / NR * NR;
  float *room = n * w > LARGE && n >= MR && wider ? aligned_alloc(64, 4 * deep * (wider + BLOCK)) : 0;
  const long done = room ? n / MR * MR : 0; /* without room none are put together: the same numbers, later */
  for (long q = 0; q < r; q += deep, add = 1) {
    const long d = r - q < deep ? r - q : deep;
    const float *x = a + q * sa, *y = b + q * sb;
    long j = 0;
    if (done) gram_together(d, done, wider, x, sa, y, sb, c, sc, add, room);
    for (; j < wider && done < n; j += NR)
      gram_whole(n - done, d, x + done, sa, y + j, sb, c + done * sc + j, sc, add);
    for (j = wider; j < w; j += VL) gram_rest(n, d, x, sa, y + j, sb, c + j, sc, add, w - j < VL ? w - j : VL);
  }
  free(room);
}

/* The sums of the columns of A [r, n], in groups of rows: that keeps rounding small. */
void recell_columns(long r, long n, const float *a, long sa, float *c) {
  memset(c, 0, 4 * n);
  for (long j = 0; j < n; j += VL) {
    const int own = n - j < VL ? n - j : VL;
    V total = {0};
    for (long q = 0; q < r; q += 256) {
      V part = {0};
      for (long i = q; i < r && i < q + 256; i++) part += vloadn(a + i * sa + j, own);
      total += part;
    }
    vstoren(c + j, total, own);
  }
}

/* Runs a function of a cell for each of C candidates; what its n pointers p point to lies `apart` bytes from one
   candidate to the next. */
int recell_each(int (*run)(const Kit *, const long *, void *const *), const Kit *kit, const long *g, void *const *p,
                long n, long C, const long *apart) {
  void *q[n];
  for (long c = 0; c < C; c++) {
    for (long i = 0; i < n; i++) q[i] = p[i] ? (char *)p[i] + c * apart[i] : 0;
    if (run(kit, g, q)) return 1;
  }
  return 0;
}

/* ---- rows by number: those of a table that `at` names, and the sums of the rows that bear each number ---- */

/* Whether each of r numbers is one of a table of n rows. */
int recell_within(long r, long n, const int64_t *at) {
  uint64_t wrong = 0;
  for (long i = 0; i < r; i++) wrong |= (uint64_t)((uint64_t)at[i] >= (uint64_t)n);
  return !wrong;
}

/* C [r, w] = the rows of A that `at` names, or += where add. */
void recell_gather(long r, long w, const float *a, const int64_t *at, float *c, long sc, int add) {
  for (long i = 0; i < r; i++) {
    const float *from = a + at[i] * w;
    float *to = c + i * sc;
    if (!add) { memcpy(to, from, 4 * w); continue; }
    long j = 0;
    for (; j + VL <= w; j += VL) vstore(to + j, vload(to + j) + vload(from + j));
    for (; j < w; j++) to[j] += from[j];
  }
}

/* C [n, w] = for each row of it the sum of those rows of A [r, w] whose number it has. */
void recell_scatter(long r, long n, long w, const float *a, long sa, const int64_t *at, float *c) {
  memset(c, 0, 4 * n * w);
  for (long i = 0; i < r; i++) {
    const float *from = a + i * sa;
    float *to = c + at[i] * w;
    long j = 0;
    for (; j + VL <= w; j += VL) vstore(to + j, vload(to + j) + vload(from + j));
    for (; j < w; j++) to[j] += from[j];
  }
}
