
/* ---- what a step of training does besides the cell: the head with its loss, and the optimiser ---- */

#define IGNORED -100 /* a target that counts for nothing, as in torch */

/* One row of logits, padded with -inf to whole vectors, and its loss; where `scale`, the row becomes the gradient of the
   loss times `scale`. */
INLINE float entropy_row(float *l, const float *b, long n, int64_t target, float scale) {
  V most = vset(-INFINITY), total = {0};
  for (long j = 0; j < n; j += VL) {
    const V a = vload(l + j) + vload(b + j);
    vstore(l + j, a);
    most = vmax(most, a);
  }
  const float top = vmaximum(most, VL);
  const float own = l[target];
  for (long j = 0; j < n; j += VL) {
    const V e = vexp(vload(l + j) - top);
    vstore(l + j, e);
    total += e;
  }
  const float sum = vsum(total);
  if (scale) {
    const V f = vset(scale / sum);
    for (long j = 0; j < n; j += VL) vstore(l + j, vload(l + j) * f);
    l[target] -= scale;
  }
  return logf(sum) + (top - own);
}

/* The sum of the cross entropies of the logits x W^T + b, x [r, d], W [n, d], with targets t, and where dx is given the
   gradients of `scale` times it. 0, or 1 where memory is short, or 2 where a target is no class. Some rows of
   logits at a time stay near; there are never all. */
int recell_cross_entropy(const Kit *kit, long r, long n, long d, const float *x, const float *w, const float *b,
                         const int64_t *t, float scale, float *dx, float *dw, float *db, double *loss) {
  const long wide = PAD(n), most = 16384 / wide, some = most < 24 ? 24 : most > 120 ? 120 : most / 6 * 6;
  float *const ahead = aligned_alloc(64, 4 * PAD(wide * (d + some + 2) + PAD(d) * n) + 256 & ~255L);
  if (!ahead) return 1;
  float *const back = ahead + wide * d, *const l = back + PAD(d) * n, *const bias = l + some * wide, *const part = bias + wide;
  kit->pack(ahead, d, n, 0, 0, w, d, n, 1, d);
  if (dx) kit->pack(back, n, d, 0, 0, w, n, d, d, 1);
  for (long j = 0; j < wide; j++) bias[j] = j >= n ? -INFINITY : b ? b[j] : 0;
  if (db) memset(db, 0, 4 * n);
  if (dw && !r) memset(dw, 0, 4 * n * d);
  double sum = 0;
  for (long i = 0; i < r; i += some) {
    const long now = r - i < some ? r - i : some;
    for (long q = 0; q < now; q++) for (long j = n; j < wide; j++) l[q * wide + j] = 0;
    kit->rows(now, n, d, x + i * d, d, ahead, l, wide, 0);
    for (long q = 0; q < now; q++) {
      const int64_t target = t[i + q];
      if (target == IGNORED) memset(l + q * wide, 0, 4 * wide);
      else if (target < 0 || target >= n) { free(ahead); return 2; }
      else sum += entropy_row(l + q * wide, bias, wide, target, dx ? scale : 0);
    }
    if (!dx) continue;
    kit->rows(now, d, n, l, wide, back, dx + i * d, d, 0);
    kit->gram(now, n, d, l, wide, x + i * d, d, dw, d, i > 0);
    if (!db) continue;
    kit->columns(now, n, l, wide, part);
    for (long j = 0; j < n; j++) db[j] += part[j];
  }
  *loss = sum;
  free(ahead);
  return 0;
}

/* One step of AdamW (I. Loshchilov and F. Hutter, 2019) on `count` arrays, the norm of all gradients clipped to `clip`.
   p has for each its values, gradient, both moments and the number of steps, a float; n how many numbers it has; decay
   its weight decay. */
double recell_adamw(long count, float *const *p, const long *n, const double *decay, double rate, double beta1,
                    double beta2, double eps, double clip) {
  double norm = 0;
  for (long k = 0; k < count; k++) {
    const float *g = p[5 * k + 1];
    for (long q = 0; q < n[k]; q += 1024) { /* in parts, which keeps rounding small */
      const long end = n[k] - q < 1024 ? n[k] : q + 1024;
      V s = {0};
      for (long j = q; j < end; j += VL) {
        const V a = vloadn(g + j, end - j < VL ? end - j : VL);
        s += a * a;
      }
      norm += vsum(s);
    }
  }
  norm = sqrt(norm);
  double within = clip / (norm + 1e-6);
  const V by = vset(within > 1 ? 1 : within); /* NaN stays */
  for (long k = 0; k < count; k++) {
    float *const w = p[5 * k], *const g = p[5 * k + 1], *const m = p[5 * k + 2], *const v = p[5 * k + 3];
    const double step = *p[5 * k + 4] += 1;
    const V keep = vset(1 - rate * decay[k]), size = vset(rate / (1 - pow(beta1, step)));
    const V root = vset(1 / sqrt(1 - pow(beta2, step))), e = vset(eps), a = vset(1 - beta1), b = vset(1 - beta2), c = vset(beta2);
    for (long j = 0; j < n[k]; j += VL) {
      const int own = n[k] - j < VL ? n[k] - j : VL;
      const V d = vloadn(g + j, own) * by, before = vloadn(m + j, own);
      const V first = before + a * (d - before), second = vloadn(v + j, own) * c + b * d * d;
      vstoren(m + j, first, own);
      vstoren(v + j, second, own);
      vstoren(w + j, vloadn(w + j, own) * keep - size * first / (vsqrt(second) * root + e), own);
    }
  }
  return norm;
}
