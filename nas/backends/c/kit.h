
/* ---- matrix products, from a library that all cells share (matrices.h) ---- */

typedef struct {
  void (*pack)(float *, long, long, long, long, const float *, long, long, long, long);
  void (*product)(long, long, long, const float *, long, const float *, float *, long, int);
  void (*rows)(long, long, long, const float *, long, const float *, float *, long, int);
  void (*gram)(long, long, long, const float *, long, const float *, long, float *, long, int);
  void (*columns)(long, long, const float *, long, float *);
  int (*within)(long, long, const int64_t *);
  void (*gather)(long, long, const float *, const int64_t *, float *, long, int);
  void (*scatter)(long, long, long, const float *, long, const int64_t *, float *);
} Kit;
