/* Statistics of the rows of softmax(scale q k^T + mask) in one streaming pass, for CPUs; no map is ever stored.
 *
 * A few rows by a panel of keys at a time stay in registers; a tile of logits, in units of log 2, stays in the first
 * cache. For every row run a maximum M and the sums of p, p z, p z^2 (z = s - M, p = 2^z), which are shifted when M
 * moves, and of powers of s - pivot over its keys. The keys of every part are centred first, which takes
 * a common offset of the logits away before it can cost digits. Where neither a mask nor a row's end cuts them and
 * |q| |k| bounds the logits, as almost always, entropy, LSE and variance take a shorter way: `swift`.
 *
 * Vector extensions that GCC and Clang have on every machine; no header of PyTorch, no library but libm and pthreads.
 */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
enum { LANES = 16, BLOCK = 12 };
#elif defined(__AVX__)
enum { LANES = 8, BLOCK = 6 };
#elif defined(__ARM_NEON)
#include <arm_neon.h>
enum { LANES = 4, BLOCK = 12 };
#else
enum { LANES = 4, BLOCK = 6 };
#endif
enum { PANEL = 2 * LANES, TILE = 512, ROWS = 96, WIDEST = 256, STATISTICS = 7, COUNTS = 4, PARTS = 4, OF_PART = 6 };
enum { BETWEEN = COUNTS + 2 * STATISTICS, NUMBERS = BETWEEN + 1 + PARTS * OF_PART };
enum { ENTROPY, LSE, MEAN, VARIANCE, THIRD, FOURTH, SENSITIVITY };
enum { STRIDE = WIDEST + LANES }; /* floats from one query to the next */

#define VECTOR __attribute__((vector_size(4 * LANES)))
#define INLINE static inline __attribute__((always_inline))
typedef float vec VECTOR;
typedef int32_t ints VECTOR;
typedef double wide VECTOR;
typedef int64_t longs VECTOR;
typedef float narrow __attribute__((vector_size(2 * LANES)));

static const float LOG2E = 1.4426950408889634f, LEFT_OUT = -9999.f, CLOSED = -1e38f, SMALLEST = -126.f, REACH = 40;
static const double LN2 = 0.69314718055994531;

INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec load(const float *from) { vec x; memcpy(&x, from, sizeof x); return x; }
INLINE void store(float *to, vec x) { memcpy(to, &x, sizeof x); }
INLINE vec larger(vec a, vec b) { /* b where a is NaN */
#if defined(__AVX512F__)
  return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__ARM_NEON)
  return (vec)vmaxnmq_f32((float32x4_t)a, (float32x4_t)b);
#else
  ints first = (ints)(a > b);
  return (vec)(((ints)a & first) | ((ints)b & ~first));
#endif
}
INLINE float largest(vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#elif defined(__AVX__)
  __m128 half = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
#else
  float most = x[0];
  for (int e = 1; e < LANES; e++) most = x[e] > most ? x[e] : most;
  return most;
#endif
}
INLINE float total(vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#elif defined(__AVX__)
  __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
  float sum = 0;
  for (int e = 0; e < LANES; e++) sum += x[e];
  return sum;
#endif
}

INLINE double dot(const float *x, const float *y, int64_t width) { /* both 0 from there to the next whole panel */
  wide sum = {0};
  double found = 0;
  for (int64_t c = 0; c < width; c += LANES / 2) {
    narrow one, other;
    memcpy(&one, x + c, sizeof one);
    memcpy(&other, y + c, sizeof other);
    sum += __builtin_convertvector(one, wide) * __builtin_convertvector(other, wide);
  }
#if defined(__AVX512F__)
  found = _mm512_reduce_add_pd((__m512d)sum);
#else
  for (int e = 0; e < LANES / 2; e++) found += sum[e];
#endif
  return found;
}

/* 2^x for |x| <= 126, within 1e-7 of the value: minimax polynomial between two whole numbers. */
INLINE vec exp2_of(vec x) {
  const vec magic = all(12582912.f); /* 1.5 * 2^23: adding it rounds to a whole number */
  vec whole = x + magic, rest = x - (whole - magic), p = all(1.32765e-3f);
  p = p * rest + all(9.67554e-3f);
  p = p * rest + all(5.550713e-2f);
  p = p * rest + all(2.4022120e-1f);
  p = p * rest + all(6.9314697e-1f);
  p = p * rest + all(1.00000007f);
  return (vec)((ints)p + ((ints)whole << 23));
}

#if defined(__AVX512F__)
/* The same for |x| <= 126 with an operation less: 2^(i/32) from a table, which lacks the i << 18 that u brings. */
static const uint32_t POWERS[32] __attribute__((aligned(64))) = {
  0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
  0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
  0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
  0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3};
INLINE vec small_exp2_of(vec x) {
  const vec magic = all(393216.f); /* 1.5 * 2^18: adding it rounds to a multiple of 1/32 */
  vec u = x + magic, rest = x - (u - magic), p = rest * (all(2.4022651e-1f) * rest + all(6.9315733e-1f));
  vec power = (vec)_mm512_permutex2var_ps(_mm512_load_ps(POWERS), (__m512i)u, _mm512_load_ps(POWERS + 16));
  power = (vec)((ints)power + ((ints)u << 18));
  return power * p + power;
}
#else
#define small_exp2_of exp2_of
#endif

typedef struct {
  int64_t batch, heads, key_heads, queries, keys, width;
  int64_t q_strides[4], k_strides[4], mask_strides[4], counted_strides[3]; /* elements: batch, heads, tokens, d */
  int64_t is_causal, wanted, threads; /* wanted: a bit a statistic */
  double scale;
  const uint8_t *mask;    /* which keys may be attended to, or null */
  const float *bias;      /* what is added to the logits, by the mask's strides, or null */
  const uint8_t *counted; /* which rows the sums are of, or null */
  int64_t parts;          /* how many parts the keys are in, 1 to PARTS */
  const int32_t *order;   /* (batch, keys): the keys, those of one part after those of another; null as they stand */
  const int64_t *bounds;  /* (batch, parts + 1): where in this order each part begins and ends */
  float *rows[STATISTICS]; /* each (batch, heads, queries), or null */
  int64_t *row_keys;       /* likewise */
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel of torch's OpenMP, or null */
} Question;

typedef struct { /* of one row, over the keys met so far; pzz, third and fourth only where more is asked */
  vec p, pz, first, second, pzz, third, fourth;
  float most, pivot;
  int64_t keys;
} Row;

typedef struct { /* of the rows at work, by part of their keys: what centring took from logits, what `swift` found */
  double shift[PARTS * ROWS], p[PARTS * ROWS], pz[PARTS * ROWS], second[PARTS * ROWS];
} Taken;

typedef struct {
  const Question *asked;
  const float *q, *k;
  int64_t first_head, last_head, tiles_of_rows, room; /* room: floats of one packed key head */
  float *packed, *centres, *longest; /* of every key head and part of its keys; longest: norm of a centred key */
  double *partial;
  int64_t next, failed, by_row; /* by_row: more than sums of entropy and variance over all rows is asked for */
} Work;

/* Where a part of the keys begins in the order; as packed, every part begins with a panel of its own. */
INLINE int64_t bound(const Question *a, int64_t batch, int64_t part) {
  return a->bounds ? a->bounds[batch * (a->parts + 1) + part] : part * a->keys;
}
INLINE int64_t padded(int64_t keys) { return (keys + PANEL - 1) / PANEL * PANEL; }

static void pack_keys(Work *work, int64_t head) {
  const Question *a = work->asked;
  const int64_t *by = a->k_strides, width = a->width, batch = head / a->key_heads;
  int64_t start = batch * by[0] + head % a->key_heads * by[1];
  const int32_t *order = a->order ? a->order + batch * a->keys : NULL;
  float *packed = work->packed + (head - work->first_head) * work->room, token[WIDEST];
  for (int64_t part = 0; part < a->parts; part++) {
    int64_t from = bound(a, batch, part), keys = bound(a, batch, part + 1) - from, wide_keys = padded(keys), used = 0;
    float *centre = work->centres + ((head - work->first_head) * a->parts + part) * padded(width);
    double sum[WIDEST] = {0};
    vec longest = all(0);
    for (int64_t j = 0; j < keys; j++) {
      const float *key = work->k + start + (order ? order[from + j] : from + j) * by[2];
      float *panel = packed + j / PANEL * PANEL * width + j % PANEL;
      int32_t bits[WIDEST], most = 0;
      for (int64_t c = 0; c < width; c++) token[c] = key[c * by[3]];
      memcpy(bits, token, sizeof(float) * (size_t)width);
      for (int64_t c = 0; c < width; c++) panel[c * PANEL] = token[c];
      for (int64_t c = 0; c < width; c++) most = (bits[c] & INT32_MAX) > most ? bits[c] & INT32_MAX : most;
      if (most >= 0x7f800000) continue; /* NaN or infinity */
      used++;
      for (int64_t c = 0; c < width; c++) sum[c] += token[c];
    }
    for (int64_t c = 0; c < padded(width); c++) centre[c] = used && c < width ? (float)(sum[c] / (double)used) : 0.f;
    for (int64_t j = keys; j < wide_keys; j++)
      for (int64_t c = 0; c < width; c++) packed[j / PANEL * PANEL * width + c * PANEL + j % PANEL] = centre[c];
    for (int64_t j = 0; j < wide_keys; j += PANEL, packed += PANEL * width)
      for (int e = 0; e < PANEL; e += LANES) {
        vec square = all(0);
        for (int64_t c = 0; c < width; c++) {
          vec x = load(packed + c * PANEL + e) - all(centre[c]);
          square += x * x;
          store(packed + c * PANEL + e, x);
        }
        longest = larger(longest, square);
      }
    work->longest[(head - work->first_head) * a->parts + part] = used == keys ? sqrtf(largest(longest)) : INFINITY;
  }
}

INLINE void products(const float *q, const float *k, int64_t width, vec left[BLOCK], vec right[BLOCK]) {
  for (int a = 0; a < BLOCK; a++) left[a] = right[a] = all(0);
  for (int64_t c = 0; c < width; c++) {
    vec k0 = load(k + c * PANEL), k1 = load(k + c * PANEL + LANES);
#pragma GCC unroll 12
    for (int a = 0; a < BLOCK; a++) {
      vec x = all(q[a * STRIDE + c]);
      left[a] += x * k0;
      right[a] += x * k1;
    }
  }
}

/* Logits of BLOCK rows and a tile of keys; the largest of every row, as lanes. */
INLINE void logits_of(const float *q, const float *k, int64_t width, int64_t keys, float s[BLOCK][TILE],
                      vec most[BLOCK]) {
  for (int a = 0; a < BLOCK; a++) most[a] = all(CLOSED);
  for (int64_t j = 0; j < keys; j += PANEL, k += PANEL * width) {
    vec left[BLOCK], right[BLOCK];
    products(q, k, width, left, right);
#pragma GCC unroll 12
    for (int a = 0; a < BLOCK; a++) {
      store(s[a] + j, left[a]);
      store(s[a] + j + LANES, right[a]);
      most[a] = larger(larger(left[a], right[a]), most[a]);
    }
  }
}

INLINE void clear(Row *row, int more) {
  row->p = row->pz = row->first = row->second = all(0);
  if (more) row->pzz = row->third = row->fourth = all(0);
  row->most = row->pivot = 0;
  row->keys = 0;
}

/* Close what a row's mask leaves out of a tile, and add what it adds; how many keys are left. */
static int64_t masked(const Question *a, int64_t head, int64_t i, int64_t j0, int64_t keys, float *s, int32_t *open) {
  int64_t left = 0, batch = head / a->heads, wide = (keys + LANES - 1) / LANES * LANES;
  const int32_t *order = a->order ? a->order + batch * a->keys + j0 : NULL;
  for (int64_t j = 0; j < wide; j++) open[j] = -(int32_t)(j < keys);
  if (a->is_causal) for (int64_t j = 0; j < keys; j++) open[j] = -(int32_t)((order ? order[j] : j0 + j) <= i);
  if (a->mask || a->bias) {
    const int64_t *by = a->mask_strides, step = by[3];
    int64_t start = batch * by[0] + head % a->heads * by[1] + i * by[2] + (order ? 0 : j0 * step);
    if (a->mask) for (int64_t j = 0; j < keys; j++)
      open[j] &= -(int32_t)(a->mask[start + (order ? order[j] : j) * step] != 0);
    else for (int64_t j = 0; j < keys; j++) {
      float added = a->bias[start + (order ? order[j] : j) * step];
      open[j] &= -(int32_t)!(added <= LEFT_OUT);
      s[j] += added * LOG2E;
    }
  }
  for (int64_t j = 0; j < wide; j++) { s[j] = open[j] ? s[j] : CLOSED; left -= open[j]; }
  return left;
}

/* Take a tile of a row's logits in, and with more than entropy, LSE, mean and variance in mind, all powers. */
INLINE void take(Row *row, const float *s, const int32_t *open, int64_t keys, float most, int64_t left, int more) {
  if (row->keys == 0) {
    row->most = most;
    if (open) { /* a centre near the row's mean: the keys' centre is that only where all of them count */
      double sum = 0;
      for (int64_t j = 0; j < keys; j++) sum += open[j] ? s[j] : 0;
      row->pivot = isfinite(sum) ? (float)(sum / (double)left) : 0.f;
    }
  } else if (most > row->most) {
    float move = row->most - most;
    vec by = all(move), much = all(exp2f(move));
    if (more) row->pzz = much * (row->pzz + by * (all(2) * row->pz + by * row->p));
    row->pz = much * (row->pz + by * row->p);
    row->p *= much;
    row->most = most;
  }
  row->keys += left;
  const vec top = all(row->most), pivot = all(row->pivot), lowest = all(SMALLEST);
  vec p = all(0), pz = p, pzz = p, first = p, second = p, third = p, fourth = p;
  for (int64_t j = 0; j < keys; j += LANES) {
    vec x = load(s + j), z = larger(x - top, lowest), e = exp2_of(z), c = x - pivot;
    if (open) {
      ints here;
      memcpy(&here, open + j, sizeof here);
      c = (vec)((ints)c & here);
      e = (vec)((ints)e & here);
    }
    vec ez = e * z;
    p += e;
    pz += ez;
    vec cc = c * c;
    first += c;
    second += cc;
    if (!more) continue;
    pzz += ez * z;
    third += cc * c;
    fourth += cc * cc;
  }
  row->p += p;
  row->pz += pz;
  row->first += first;
  row->second += second;
  if (!more) return;
  row->pzz += pzz;
  row->third += third;
  row->fourth += fourth;
}

/* A row's statistics, natural logarithms; shift is what centring the keys took from every logit. */
INLINE void finish(const Row *row, const Taken *taken, int64_t at, int more, double *found) {
  double n = (double)row->keys, p = total(row->p) + taken->p[at], size = log2(p), shift = taken->shift[at];
  double z = (total(row->pz) + taken->pz[at]) / p, m1 = total(row->first) / n;
  double m2 = (total(row->second) + taken->second[at]) / n, variance = m2 - m1 * m1;
  double lost = isfinite(m1) ? 0 : NAN; /* no key, or a logit that is not finite, which maxima lose */
  found[ENTROPY] = LN2 * (size > z ? size - z : 0 * (size - z)) + lost;
  found[LSE] = LN2 * (row->most + size) + shift + lost;
  found[MEAN] = LN2 * (m1 + row->pivot) + shift + lost;
  found[VARIANCE] = LN2 * LN2 * (variance > 0 ? variance : variance * 0);
  found[THIRD] = found[FOURTH] = found[SENSITIVITY] = 0;
  if (!more) return;
  double spread = total(row->pzz) / p - z * z, m3 = total(row->third) / n, m4 = total(row->fourth) / n;
  double third = m3 - 3 * m1 * m2 + 2 * m1 * m1 * m1;
  double moment = m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1 * m1 * m1 * m1;
  found[THIRD] = LN2 * LN2 * LN2 * third;
  found[FOURTH] = LN2 * LN2 * LN2 * LN2 * (moment - 3 * variance * variance);
  found[SENSITIVITY] = LN2 * LN2 * (spread > 0 ? spread : spread * 0) + lost;
}

/* A whole row's statistics from those of the parts of its keys (chain rule, total variance); the weight of each. */
INLINE int64_t combine(const Row *rows, int64_t parts, const Taken *taken, int64_t at, int more,
                       double found[PARTS][STATISTICS], double *whole, double *weight, double *between) {
  int64_t keys = 0;
  double most = -INFINITY, sum = 0, mean = 0, expected = 0, m2 = 0, m3 = 0, m4 = 0;
  *between = 0;
  for (int64_t m = 0; m < parts; m++) {
    keys += rows[m * ROWS].keys;
    finish(rows + m * ROWS, taken, m * ROWS + at, more, found[m]);
    if (rows[m * ROWS].keys && !(found[m][LSE] <= most)) most = found[m][LSE];
  }
  if (parts == 1) { memcpy(whole, found[0], sizeof found[0]); weight[0] = 1; return keys; }
  for (int64_t m = 0; m < parts; m++) sum += weight[m] = rows[m * ROWS].keys ? exp(found[m][LSE] - most) : 0;
  for (int x = 0; x < STATISTICS; x++) whole[x] = 0;
  whole[LSE] = most + log(sum);
  for (int64_t m = 0; m < parts; m++) {
    if (!rows[m * ROWS].keys) continue;
    weight[m] /= sum;
    *between -= weight[m] > 0 ? weight[m] * log(weight[m]) : 0;
    whole[ENTROPY] += weight[m] * found[m][ENTROPY];
    mean += (double)rows[m * ROWS].keys / (double)keys * found[m][MEAN];
    expected += weight[m] * (found[m][LSE] - found[m][ENTROPY]);
  }
  whole[ENTROPY] += *between;
  whole[MEAN] = mean;
  for (int64_t m = 0; m < parts; m++) {
    if (!rows[m * ROWS].keys) continue;
    double share = (double)rows[m * ROWS].keys / (double)keys, off = found[m][MEAN] - mean;
    double apart = found[m][LSE] - found[m][ENTROPY] - expected, v = found[m][VARIANCE], k3 = found[m][THIRD];
    whole[SENSITIVITY] += weight[m] * (found[m][SENSITIVITY] + apart * apart);
    m2 += share * (v + off * off);
    m3 += share * (k3 + 3 * off * v + off * off * off);
    m4 += share * (found[m][FOURTH] + 3 * v * v + 4 * off * k3 + 6 * off * off * v + off * off * off * off);
  }
  whole[VARIANCE] = m2;
  whole[THIRD] = m3;
  whole[FOURTH] = m4 - 3 * m2 * m2;
  return keys;
}

/* Write a finished row, and add it to the sums of its head. */
INLINE void put(const Question *a, int64_t head, int64_t i, const Row *rows, const Taken *taken, int64_t place,
                int more, double *sums) {
  double found[PARTS][STATISTICS], whole[STATISTICS], weight[PARTS], between, any = 0;
  int64_t keys = combine(rows, a->parts, taken, place, more, found, whole, weight, &between);
  int64_t at = head * a->queries + i;
  if (a->row_keys) a->row_keys[at] = keys;
  for (int x = 0; x < STATISTICS; x++) {
    if (!(a->wanted >> x & 1)) continue;
    if (a->rows[x]) a->rows[x][at] = keys ? (float)whole[x] : NAN;
    any += whole[x];
  }
  if (!sums) return;
  const int64_t *by = a->counted_strides;
  if (a->counted && !a->counted[head / a->heads * by[0] + head % a->heads * by[1] + i * by[2]]) return;
  if (keys == 0) { sums[1]++; return; }
  sums[3] += (double)keys;
  if (!isfinite(any) || !isfinite(whole[MEAN])) { sums[2]++; return; }
  sums[0]++;
  for (int x = 0; x < STATISTICS; x++)
    if (a->wanted >> x & 1) { sums[COUNTS + x] += whole[x]; sums[COUNTS + STATISTICS + x] += whole[x] * whole[x]; }
  sums[BETWEEN] += between;
  for (int64_t m = 0; m < a->parts; m++) {
    double *of = sums + BETWEEN + 1 + m * OF_PART;
    int64_t own = rows[m * ROWS].keys;
    if (own == 0) continue;
    of[0]++;
    of[1] += (double)own;
    of[2] += weight[m];
    of[3] += weight[m] * found[m][ENTROPY];
    of[4] += found[m][ENTROPY];
    if (a->wanted >> VARIANCE & 1) of[5] += found[m][VARIANCE];
  }
}

/* What `take` does, for keys that nothing masks and rows whose logits stay within REACH: straight from the registers
 * and about 0, not a maximum, which moves E[s] by REACH at most. Their mean is 0: the keys are centred. What fills the
 * last panel is 0 too, so that all it adds is 2^0 where no key is. */
INLINE void swift(const float *q, const float *k, int64_t width, int64_t keys, Taken *taken, int64_t at, int squares) {
  vec p[BLOCK], pz[BLOCK], second[BLOCK];
  for (int a = 0; a < BLOCK; a++) p[a] = pz[a] = second[a] = all(0);
  for (int64_t j = 0; j < keys; j += PANEL, k += PANEL * width) {
    vec left[BLOCK], right[BLOCK];
    products(q, k, width, left, right);
#pragma GCC unroll 12
    for (int a = 0; a < BLOCK; a++) {
      vec x = left[a], y = right[a], e = small_exp2_of(x), f = small_exp2_of(y);
      p[a] += e + f;
      vec t = pz[a] + e * x;
      pz[a] = t + f * y;
      if (squares) { t = second[a] + x * x; second[a] = t + y * y; }
    }
  }
  int tail = (int)((keys - 1) % PANEL + 1);
  ints lane;
  for (int e = 0; e < LANES; e++) lane[e] = e;
  ints one = (ints)small_exp2_of(all(0));
  vec added = (vec)(one & (lane >= tail)) + (vec)(one & (lane >= tail - LANES));
  for (int a = 0; a < BLOCK; a++) {
    taken->p[at + a] += total(p[a] - added);
    taken->pz[at + a] += total(pz[a]);
    if (squares) taken->second[at + a] += total(second[a]);
  }
}

/* log2 of numbers that are positive and normal, within 1e-11: of what is left of a power of 2 by a series. */
INLINE wide log2_of(wide x) {
  longs bits = (longs)x, power = (bits - 0x3fe6a09e667f3bcdLL) >> 52; /* what is left is in [0.7071, 1.4142) */
  wide rest = (wide)(bits - (power << 52)), t = (rest - 1) / (rest + 1), s = t * t;
  wide series = s * (1. / 11) + 1. / 9;
  series = series * s + 1. / 7;
  series = series * s + 1. / 5;
  series = series * s + 1. / 3;
  return __builtin_convertvector(power, wide) + (t * s * series + t) * (2 / LN2);
}

/* What `put` adds to the sums of a head, for rows that `swift` took whole and of which no other statistic is wanted. */
static void put_swift(const Question *a, const Taken *taken, int64_t rows, double *sums) {
  wide sum[4] = {{0}}; /* entropy, its square, variance, its square */
  for (int64_t i = 0; i < rows; i += LANES / 2) {
    wide p, pz, second, here = {0};
    memcpy(&p, taken->p + i, sizeof p);
    memcpy(&pz, taken->pz + i, sizeof pz);
    memcpy(&second, taken->second + i, sizeof second);
    for (int e = 0; e < LANES / 2 && i + e < rows; e++) here[e] = 1;
    wide entropy = LN2 * here * (log2_of(p) - pz / p), variance = LN2 * LN2 / (double)a->keys * here * second;
    entropy = (wide)((longs)entropy & (longs)(entropy > 0));
    sum[0] += entropy;
    sum[1] += entropy * entropy;
    sum[2] += variance;
    sum[3] += variance * variance;
  }
  double found[4] = {0}, count = (double)rows, *part = sums + BETWEEN + 1;
  for (int x = 0; x < 4; x++) for (int e = 0; e < LANES / 2; e++) found[x] += sum[x][e];
  sums[0] += count;
  sums[3] += count * (double)a->keys;
  for (int x = 0; x < 2; x++) {
    int of = x ? VARIANCE : ENTROPY;
    if (!(a->wanted >> of & 1)) continue;
    sums[COUNTS + of] += found[2 * x];
    sums[COUNTS + STATISTICS + of] += found[2 * x + 1];
  }
  part[0] += count;
  part[1] += count * (double)a->keys;
  part[2] += count;
  part[3] += found[0];
  part[4] += found[0];
  if (a->wanted >> VARIANCE & 1) part[5] += found[2];
}

INLINE void block(const Question *a, const float *q, const float *k, int64_t head, int64_t i, int64_t j0, int64_t keys,
                  Row *rows, int more) {
  float s[BLOCK][TILE] __attribute__((aligned(64)));
  int32_t open[TILE] __attribute__((aligned(64)));
  vec most[BLOCK];
  logits_of(q, k, a->width, keys, s, most);
  for (int r = 0; r < BLOCK && i + r < a->queries; r++) {
    int64_t left = keys;
    if (a->mask || a->bias || keys % LANES || (a->is_causal && (a->order || i + r < j0 + keys - 1))) {
      left = masked(a, head, i + r, j0, keys, s[r], open);
      if (left == 0) continue;
      vec now = all(CLOSED);
      for (int64_t j = 0; j < keys; j += LANES) now = larger(load(s[r] + j), now);
      most[r] = now;
    }
    float top = largest(most[r]);
    if (left < keys || keys % LANES) take(rows + r, s[r], open, keys, top, left, more);
    else take(rows + r, s[r], NULL, keys, top, left, more);
  }
}

static void rows_of(Work *work, int64_t item, float *queries, Row *rows, Taken *taken) {
  const Question *a = work->asked;
  int64_t head = work->first_head * (a->heads / a->key_heads) + item / work->tiles_of_rows, width = a->width;
  int64_t key_head = head / a->heads * a->key_heads + head % a->heads / (a->heads / a->key_heads);
  int64_t first = item % work->tiles_of_rows * ROWS, last = first + ROWS < a->queries ? first + ROWS : a->queries;
  int64_t count = last - first, filled = (count + BLOCK - 1) / BLOCK * BLOCK; /* those beyond the last are nobody's */
  const int64_t *by = a->q_strides;
  const float *packed = work->packed + (key_head - work->first_head) * work->room;
  const float *centre = work->centres + (key_head - work->first_head) * a->parts * padded(width);
  const float *longest = work->longest + (key_head - work->first_head) * a->parts;
  float norm = 0, factor = (float)(a->scale * 1.4426950408889634);
  double *sums = work->partial ? work->partial + item * NUMBERS : NULL;
  int squares = a->wanted >> VARIANCE & 1, more = (a->wanted & (1 << THIRD | 1 << FOURTH | 1 << SENSITIVITY)) != 0;
  int is_open = !more && !a->mask && !a->bias && !a->is_causal, is_shifted = work->by_row || a->parts > 1;
  for (int64_t i = 0; i < count; i++) {
    float *token = queries + i * STRIDE;
    const float *query = work->q + head / a->heads * by[0] + head % a->heads * by[1] + (first + i) * by[2];
    memset(token + width, 0, sizeof(float) * (size_t)(padded(width) - width));
    int64_t c = 0;
    if (by[3] == 1) for (; c + LANES <= width; c += LANES) store(token + c, load(query + c));
    for (; c < width; c++) token[c] = query[c * by[3]];
    for (int64_t m = 0; m < a->parts; m++)
      taken->shift[m * ROWS + i] = is_shifted ? a->scale * dot(token, centre + m * padded(width), width) : 0;
    vec square = all(0);
    for (int64_t c = 0; c < width; c += LANES) {
      vec x = load(token + c);
      square += x * x;
      store(token + c, x * all(factor));
    }
    float length = total(square);
    if (!(length <= norm)) norm = isnan(length) ? INFINITY : length;
  }
  for (int64_t i = count; i < filled; i++) memset(queries + i * STRIDE, 0, sizeof(float) * (size_t)width);
  for (int64_t part = 0; part < a->parts; part++) {
    int64_t begin = bound(a, head / a->heads, part), end = bound(a, head / a->heads, part + 1), at = part * ROWS, keys;
    int is_swift = is_open && sqrtf(norm) * factor * longest[part] < REACH;
    memset(taken->p + at, 0, sizeof(double) * ROWS);
    memset(taken->pz + at, 0, sizeof(double) * ROWS);
    memset(taken->second + at, 0, sizeof(double) * ROWS);
    int is_whole = is_swift && sums && a->keys && !is_shifted;
    for (int64_t i = 0; i < filled && !is_whole; i++) clear(rows + at + i, more);
    for (int64_t j = begin; j < end && !(a->is_causal && !a->order && j >= last); j += keys) {
      keys = end - j < TILE ? end - j : TILE;
      for (int64_t i = 0; i < count; i += BLOCK) {
        const float *q = queries + i * STRIDE, *k = packed + (j - begin) * width;
        if (is_swift && squares) swift(q, k, width, keys, taken, at + i, 1);
        else if (is_swift) swift(q, k, width, keys, taken, at + i, 0);
        else if (more) block(a, q, k, head, first + i, j, keys, rows + at + i, 1);
        else block(a, q, k, head, first + i, j, keys, rows + at + i, 0);
      }
    }
    if (is_whole) { put_swift(a, taken, count, sums); return; }
    if (is_swift) for (int64_t i = 0; i < count; i++) rows[at + i].keys = end - begin;
    packed += padded(end - begin) * width;
  }
  for (int64_t i = 0; i < count; i++) put(a, head, first + i, rows + i, taken, i, more, sums);
}

static void pack_all(void *given) {
  Work *work = given;
  int64_t heads = work->last_head - work->first_head;
  for (int64_t item; (item = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < heads;)
    pack_keys(work, work->first_head + item);
}

static void rows_all(void *given) {
  Work *work = given;
  const Question *a = work->asked;
  int64_t items = (work->last_head - work->first_head) * (a->heads / a->key_heads) * work->tiles_of_rows;
  float *queries = NULL;
  Row *rows = NULL;
  Taken taken;
  if (posix_memalign((void **)&queries, 64, sizeof(float) * ROWS * STRIDE) ||
      posix_memalign((void **)&rows, 64, sizeof(Row) * ROWS * (size_t)a->parts))
    __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
  else for (int64_t item; (item = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < items;)
    rows_of(work, item, queries, rows, &taken);
  free(queries);
  free(rows);
}

static void *as_thread(void *given) {
  void **both = given;
  ((void (*)(void *))both[0])(both[1]);
  return NULL;
}

/* Run what shares work out among its threads by itself: in torch's OpenMP, where it is known, else in our own. */
static void in_parallel(const Question *a, void (*run)(void *), Work *work, int64_t most) {
  int64_t threads = a->threads < most ? a->threads : most;
  work->next = 0;
  if (threads > 1 && a->parallel) { a->parallel(run, work, (unsigned)threads, 0); return; }
  pthread_t started[64];
  void *given[2] = {(void *)run, work};
  int64_t count = 0;
  while (count < threads - 1 && count < 64 && !pthread_create(started + count, NULL, as_thread, given)) count++;
  run(work);
  for (int64_t i = 0; i < count; i++) pthread_join(started[i], NULL);
}

/* Answer a question about q and k, float32, by their strides: 0, or 1 if there was no memory.
 *
 * sums (batch, heads, NUMBERS), or null: rows valid, empty and bad, keys; over the valid rows the sums of the
 * statistics, of their squares, of the entropy between the parts; and of each part: rows that have keys in it, sums of
 * keys, weight, what it adds to the entropy, entropy and variance within it. */
int row_statistics(const Question *a, const float *q, const float *k, double *sums) {
  int64_t key_heads = a->batch * a->key_heads, group = a->heads / a->key_heads;
  int64_t room = padded(a->keys + (a->parts - 1) * PANEL) * a->width;
  int64_t at_once = (int64_t)(1 << 22) / room; /* packed keys of 16 MB at most, but for one head */
  at_once = at_once < 1 ? 1 : at_once > key_heads ? key_heads : at_once;
  Work work = {.asked = a, .q = q, .k = k, .tiles_of_rows = (a->queries + ROWS - 1) / ROWS, .room = room};
  work.by_row = a->counted || a->row_keys || (a->wanted & ~(1 << ENTROPY | 1 << VARIANCE));
  for (int x = 0; x < STATISTICS; x++) work.by_row |= a->rows[x] != NULL;
  size_t items = (size_t)(at_once * group * work.tiles_of_rows);
  double few = (double)key_heads * (double)group * (double)a->queries * (double)a->keys * (double)a->width;
  int64_t threads = few < 1e6 ? 1 : INT64_MAX;
  int bad = posix_memalign((void **)&work.packed, 64, sizeof(float) * (size_t)(at_once * room));
  work.centres = malloc(sizeof(float) * (size_t)(at_once * a->parts * (padded(a->width) + 1)));
  work.longest = work.centres + at_once * a->parts * padded(a->width);
  work.partial = sums ? malloc(sizeof(double) * items * NUMBERS) : NULL;
  bad = bad || !work.centres || (sums && !work.partial);
  for (int64_t head = 0; head < key_heads && !bad; head += at_once) {
    work.first_head = head;
    work.last_head = head + at_once < key_heads ? head + at_once : key_heads;
    if (sums) memset(work.partial, 0, sizeof(double) * items * NUMBERS);
    in_parallel(a, pack_all, &work, threads);
    in_parallel(a, rows_all, &work, threads);
    for (int64_t h = 0; sums && h < (work.last_head - head) * group; h++) {
      double *own = sums + (head * group + h) * NUMBERS;
      memset(own, 0, sizeof(double) * NUMBERS);
      for (int64_t tile = 0; tile < work.tiles_of_rows; tile++)
        for (int64_t x = 0; x < NUMBERS; x++) own[x] += work.partial[(h * work.tiles_of_rows + tile) * NUMBERS + x];
    }
    bad = (int)work.failed;
  }
  free(work.packed);
  free(work.centres);
  free(work.partial);
  return bad;
}
