// CPU kernels: batch normalization with ReLU, and pooling, over channels_last feature maps.
//
// Feature maps are N * H * W rows of channels. With a row stride larger than the number of channels, a kernel reads or writes a
// channel slice of a concatenation in place. Sums are in fp32 within a block of rows, and in double over the blocks. T is float
// or bf16.

#include <omp.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

struct bf16 {
    uint16_t bits;
};

inline Lanes load(const float* p) {
    Lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

inline Lanes load(const bf16* p) {
    Halves h;
    memcpy(&h, p, sizeof h);
    return (Lanes)(__builtin_convertvector(h, Words) << 16);
}

inline void store(float* p, Lanes v) { memcpy(p, &v, sizeof v); }

inline void store(bf16* p, Lanes v) {  // rounds to nearest, ties to even; NaN stays NaN
#ifdef __AVX512BF16__
    const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
#else
    Words w = (Words)v;
    w = (w + 0x7fff + ((w >> 16) & 1)) >> 16;
    const Halves h = __builtin_convertvector(v == v ? w : Words{} + 0x7fc0, Halves);
#endif
    memcpy(p, &h, sizeof h);
}

// The last lane of a row may be partly filled: its argument `left` is then the number of channels; for other lanes it is Full.
struct Full {};

template <class T>
inline Lanes load(const T* p, Full) {
    return load(p);
}

template <class T>
inline void store(T* p, Lanes v, Full) {
    store(p, v);
}

template <class T>
inline Lanes load(const T* p, long left) {
    T part[LANES] = {};
    memcpy(part, p, left * sizeof(T));
    return load(part);
}

template <class T>
inline void store(T* p, Lanes v, long left) {
    T part[LANES];
    store(part, v);
    memcpy(p, part, left * sizeof(T));
}

// Calls `work(lane, left)` for each group of LANES channels.
template <class Work>
inline void each_lane(long channels, const Work& work) {
    long lane = 0;
    for (; (lane + 1) * LANES <= channels; lane++) work(lane, Full{});
    if (lane * LANES < channels) work(lane, channels - lane * LANES);
}

inline Lanes positive(Lanes v) { return v > 0 ? v : (v == v ? Lanes{} : v); }  // ReLU; NaN stays NaN

constexpr long BLOCK = 256;  // rows

long lanes_of(long channels) { return (channels + LANES - 1) / LANES; }

// Computes two sums over the rows for every channel. `add(row, lane, left, first, second)` adds the terms of one row.
template <class Add>
void sums(long rows, long channels, double* first, double* second, const Add& add) {
    const long lanes = lanes_of(channels), blocks = (rows + BLOCK - 1) / BLOCK;
    const int threads = std::max(1L, std::min<long>(omp_get_max_threads(), blocks));
    std::vector<double> parts(threads * 2 * lanes * LANES, 0.0);
#pragma omp parallel num_threads(threads)
    {
        double* mine = parts.data() + omp_get_thread_num() * 2 * lanes * LANES;
        std::vector<Lanes> a(lanes), b(lanes);
#pragma omp for schedule(static)
        for (long block = 0; block < blocks; block++) {
            std::fill(a.begin(), a.end(), Lanes{});
            std::fill(b.begin(), b.end(), Lanes{});
            const long end = std::min(rows, (block + 1) * BLOCK);
            long row = block * BLOCK;
            for (; row + 4 <= end; row += 4)  // four rows at a time: fewer loads and stores of the sums
                each_lane(channels, [&](long lane, auto left) {
                    Lanes s = a[lane], t = b[lane];
                    for (int k = 0; k < 4; k++) add(row + k, lane, left, s, t);
                    a[lane] = s, b[lane] = t;
                });
            for (; row < end; row++) each_lane(channels, [&](long lane, auto left) { add(row, lane, left, a[lane], b[lane]); });
            for (long lane = 0; lane < lanes; lane++)
                for (int k = 0; k < LANES; k++) {
                    mine[lane * LANES + k] += a[lane][k];
                    mine[(lanes + lane) * LANES + k] += b[lane][k];
                }
        }
    }
    for (long c = 0; c < channels; c++) {
        first[c] = second[c] = 0;
        for (int t = 0; t < threads; t++) {
            first[c] += parts[t * 2 * lanes * LANES + c];
            second[c] += parts[(t * 2 + 1) * lanes * LANES + c];
        }
    }
}

std::vector<Lanes> padded(const float* values, long channels) {
    std::vector<Lanes> found(lanes_of(channels), Lanes{});
    memcpy(found.data(), values, channels * sizeof(float));
    return found;
}

template <class T>
void moments(const T* x, long stride, long rows, long channels, float* mean, float* variance) {
    std::vector<Lanes> pivots(lanes_of(channels));  // values near the mean: avoids cancellation in the sum of squares
    each_lane(channels, [&](long lane, auto left) { pivots[lane] = load(x + lane * LANES, left); });
    const Lanes* pivot = pivots.data();
    std::vector<double> first(channels), second(channels);
    sums(rows, channels, first.data(), second.data(), [=](long row, long lane, auto left, Lanes& s, Lanes& t) {
        const Lanes v = load(x + row * stride + lane * LANES, left) - pivot[lane];
        s += v, t += v * v;
    });
    for (long c = 0; c < channels; c++) {
        const double shift = first[c] / rows;
        mean[c] = pivot[c / LANES][c % LANES] + shift;
        variance[c] = std::max(0.0, second[c] / rows - shift * shift);
        if (second[c] != second[c]) variance[c] = second[c];
    }
}

template <class T>
void normalize(const T* x, long x_stride, long rows, long channels, const float* scale, const float* shift, bool relu, T* y,
               long y_stride) {
    const auto scales = padded(scale, channels), shifts = padded(shift, channels);
    const Lanes *a = scales.data(), *b = shifts.data();  // captured by value: stores might alias references
    const auto run = [=](auto finish) {
#pragma omp parallel for schedule(static)
        for (long row = 0; row < rows; row++) {
            const T* from = x + row * x_stride;
            T* to = y + row * y_stride;
            each_lane(channels, [=](long lane, auto left) {
                store(to + lane * LANES, finish(load(from + lane * LANES, left) * a[lane] + b[lane]), left);
            });
        }
    };
    if (relu)
        run([](Lanes v) { return positive(v); });
    else
        run([](Lanes v) { return v; });
}

// Batch normalization and ReLU in training. Writes scale, shift, mean and 1 / standard deviation of all channels to `affine`.
// Updates the running statistics unless they are null; their variance is unbiased.
template <class T>
void batch_norm(const T* x, long stride, long rows, long channels, const float* weight, const float* bias, float eps, bool relu, T* y,
                float* affine, float* running_mean, float* running_variance, float momentum) {
    float *scale = affine, *shift = affine + channels, *mean = affine + 2 * channels, *inverse = affine + 3 * channels;
    moments(x, stride, rows, channels, mean, inverse);
    for (long c = 0; c < channels; c++) {
        const float variance = inverse[c];
        inverse[c] = 1 / std::sqrt(variance + eps);
        scale[c] = weight[c] * inverse[c];
        shift[c] = bias[c] - mean[c] * scale[c];
        if (running_mean) {
            running_mean[c] += momentum * (mean[c] - running_mean[c]);
            running_variance[c] += momentum * (variance * rows / std::max(1L, rows - 1) - running_variance[c]);
        }
    }
    normalize(x, stride, rows, channels, scale, shift, relu, y, channels);
}

// g: gradient of y; gx has the strides of x. Writes the gradients of x, weight and bias; recomputes the mask of ReLU from x.
template <class T>
void batch_norm_backward(const T* g, long g_stride, const T* x, long x_stride, long rows, long channels, const float* affine,
                         bool relu, T* gx, float* gweight, float* gbias) {
    const float *scale = affine, *shift = affine + channels, *mean = affine + 2 * channels, *inverse = affine + 3 * channels;
    const auto scales = padded(scale, channels), shifts = padded(shift, channels), means = padded(mean, channels);
    const Lanes *a = scales.data(), *b = shifts.data(), *m = means.data();
    const auto run = [=](auto mask) {
        std::vector<double> first(channels), second(channels);
        sums(rows, channels, first.data(), second.data(), [=](long row, long lane, auto left, Lanes& s, Lanes& t) {
            const Lanes v = load(x + row * x_stride + lane * LANES, left);
            const Lanes gradient = mask(load(g + row * g_stride + lane * LANES, left), v, lane);
            s += gradient, t += gradient * (v - m[lane]);
        });
        std::vector<float> slopes(channels), offsets(channels);
        for (long c = 0; c < channels; c++) {
            gbias[c] = first[c];
            gweight[c] = second[c] * inverse[c];
            const double through = double(inverse[c]) * inverse[c] * second[c] / rows;
            slopes[c] = -scale[c] * through;
            offsets[c] = scale[c] * (through * mean[c] - first[c] / rows);
        }
        const auto by_lane = padded(slopes.data(), channels), more = padded(offsets.data(), channels);
        const Lanes *slope = by_lane.data(), *offset = more.data();
#pragma omp parallel for schedule(static)
        for (long row = 0; row < rows; row++) {
            const T *xs = x + row * x_stride, *gs = g + row * g_stride;
            T* to = gx + row * x_stride;
            each_lane(channels, [=](long lane, auto left) {
                const Lanes v = load(xs + lane * LANES, left), gradient = mask(load(gs + lane * LANES, left), v, lane);
                store(to + lane * LANES, a[lane] * gradient + (slope[lane] * v + offset[lane]), left);
            });
        }
    };
    if (relu)
        run([=](Lanes gradient, Lanes v, long lane) { return (Lanes)((Ints)gradient & (v * a[lane] + b[lane] > 0)); });
    else
        run([](Lanes gradient, Lanes, long) { return gradient; });
}

// One axis of a pool. Output `o` reads the rows or columns `begin(o)` to `end(o)` of the input.
struct Axis {
    long in, out, kernel, stride, pad;
    long origin(long o) const { return o * stride - pad; }
    long begin(long o) const { return std::max(0L, origin(o)); }
    long end(long o) const { return std::min(in, origin(o) + kernel); }
    long first(long i) const { return std::max(0L, (i + pad - kernel + stride) / stride); }  // first output that reads input i
    long last(long i) const { return std::min(out - 1, (i + pad) / stride); }
    std::vector<float> shares(bool count_padding) const {  // 1 / window size along this axis, for each output
        std::vector<float> found(out);
        for (long o = 0; o < out; o++)
            found[o] = 1.0f / (count_padding ? std::min(in + pad, origin(o) + kernel) - origin(o) : end(o) - begin(o));
        return found;
    }
};

inline Ints load_bytes(const uint8_t* p, long left) {
    Bytes v = {};
    memcpy(&v, p, left);
    return (Ints)__builtin_convertvector(__builtin_convertvector(v, Halves), Words);  // one step would be slow in GCC
}

inline Ints load_bytes(const uint8_t* p, Full) {
    Bytes v;
    memcpy(&v, p, LANES);
    return (Ints)__builtin_convertvector(__builtin_convertvector(v, Halves), Words);
}

inline Bytes narrow(Ints v) { return __builtin_convertvector(__builtin_convertvector((Words)v, Halves), Bytes); }

inline void store_bytes(uint8_t* p, Ints v, Full) {
    const Bytes bytes = narrow(v);
    memcpy(p, &bytes, LANES);
}

inline void store_bytes(uint8_t* p, Ints v, long left) {
    const Bytes bytes = narrow(v);
    memcpy(p, &bytes, left);
}

// Calls `work(image, row, column)` for every position of `n` images.
template <class Work>
void each_position(long n, long height, long width, const Work& work) {
#pragma omp parallel for collapse(2) schedule(static)
    for (long image = 0; image < n; image++)
        for (long row = 0; row < height; row++)
            for (long column = 0; column < width; column++) work(image, row, column);
}

// An output whose window contains a given input position: `at` is the offset of the output, `here` the position in the window.
struct Reader {
    long at;
    int here;
};

// Calls `work(to, readers, count)` for every position of the input; `to` is its offset, `readers` are the outputs that read it.
template <class Work>
void gather(long n, long channels, Axis h, Axis w, const Work& work) {
    std::vector<long> firsts(w.in), lasts(w.in);  // computed once for all rows: each takes a division
    for (long iw = 0; iw < w.in; iw++) firsts[iw] = w.first(iw), lasts[iw] = w.last(iw);
#pragma omp parallel
    {
        std::vector<Reader> readers(h.kernel * w.kernel);
#pragma omp for collapse(2) schedule(static)
        for (long image = 0; image < n; image++)
            for (long ih = 0; ih < h.in; ih++) {
                const long top = h.first(ih), bottom = h.last(ih);
                for (long iw = 0; iw < w.in; iw++) {
                    long count = 0;
                    for (long oh = top; oh <= bottom; oh++)
                        for (long ow = firsts[iw]; ow <= lasts[iw]; ow++)
                            readers[count++] = {((image * h.out + oh) * w.out + ow) * channels,
                                                int((ih - h.origin(oh)) * w.kernel + iw - w.origin(ow))};
                    work(((image * h.in + ih) * w.in + iw) * channels, readers.data(), count);
                }
            }
    }
}

template <class T>
void max_pool(const T* x, long n, long channels, Axis h, Axis w, T* y, uint8_t* which) {
    each_position(n, h.out, w.out, [=](long image, long oh, long ow) {
        const T* from = x + (image * h.in * w.in) * channels;
        const long top = h.origin(oh), left_edge = w.origin(ow), at = ((image * h.out + oh) * w.out + ow) * channels;
        const long h0 = h.begin(oh), h1 = h.end(oh), w0 = w.begin(ow), w1 = w.end(ow);
        each_lane(channels, [=](long lane, auto left) {
            Lanes best = Lanes{} - std::numeric_limits<float>::infinity();
            Ints found = Ints{} + int((h0 - top) * w.kernel + w0 - left_edge);
            for (long ih = h0; ih < h1; ih++)
                for (long iw = w0; iw < w1; iw++) {
                    const Lanes v = load(from + (ih * w.in + iw) * channels + lane * LANES, left);
                    const Ints better = (v > best) | (v != v);
                    best = better ? v : best;
                    found = better ? Ints{} + int((ih - top) * w.kernel + iw - left_edge) : found;
                }
            store(y + at + lane * LANES, best, left);
            store_bytes(which + at + lane * LANES, found, left);
        });
    });
}

template <class T>
void max_pool_backward(const T* g, const uint8_t* which, long n, long channels, Axis h, Axis w, T* gx) {
    gather(n, channels, h, w, [=](long to, const Reader* readers, long count) {
        each_lane(channels, [=](long lane, auto left) {
            Lanes sum = {};
            for (long k = 0; k < count; k++) {
                const long at = readers[k].at + lane * LANES;
                const Ints chosen = load_bytes(which + at, left) == Ints{} + readers[k].here;
                sum += (Lanes)((Ints)load(g + at, left) & chosen);
            }
            store(gx + to + lane * LANES, sum, left);
        });
    });
}

// bf16 without conversion to float: twice as many channels at a time, half the work.
typedef int16_t Shorts __attribute__((vector_size(4 * LANES)));
typedef uint8_t ManyBytes __attribute__((vector_size(2 * LANES)));
typedef int8_t ManySigned __attribute__((vector_size(2 * LANES)));

// Converts bf16 bits to integers in the order of the values: both zeros are equal, NaN is the largest. `as_bits` converts back.
inline Shorts in_order(Shorts x) {
    const Shorts magnitude = x & 0x7fff;
    return magnitude > 0x7f80 ? Shorts{} + 0x7fff : x < 0 ? -magnitude : x;
}

inline Shorts as_bits(Shorts ordered) { return ordered < 0 ? -ordered | Shorts{} - 0x7fff - 1 : ordered; }

void max_pool(const bf16* x, long n, long channels, Axis h, Axis w, bf16* y, uint8_t* which) {
    if (channels % (2 * LANES)) return max_pool<bf16>(x, n, channels, h, w, y, which);
    each_position(n, h.out, w.out, [=](long image, long oh, long ow) {
        const bf16* from = x + (image * h.in * w.in) * channels;
        const long top = h.origin(oh), left = w.origin(ow), at = ((image * h.out + oh) * w.out + ow) * channels;
        const long h0 = h.begin(oh), h1 = h.end(oh), w0 = w.begin(ow), w1 = w.end(ow);
        for (long c = 0; c < channels; c += 2 * LANES) {
            Shorts best = Shorts{} - 0x7fff - 1, found = Shorts{};
            for (long ih = h0; ih < h1; ih++)
                for (long iw = w0; iw < w1; iw++) {
                    Shorts v;
                    memcpy(&v, from + (ih * w.in + iw) * channels + c, sizeof v);
                    v = in_order(v);
                    const Shorts better = v > best;
                    best = better ? v : best;
                    found = better ? Shorts{} + short((ih - top) * w.kernel + iw - left) : found;
                }
            best = as_bits(best);
            memcpy(y + at + c, &best, sizeof best);
            const ManyBytes narrow = __builtin_convertvector(found, ManyBytes);
            memcpy(which + at + c, &narrow, sizeof narrow);
        }
    });
}

// Adds the gradients of chosen positions and masks the others. A word holds two channels: `low` sums the lower halves, shifted
// up, and `high` the upper halves.
inline void add_chosen(const bf16* g, const uint8_t* which, int here, Lanes& low, Lanes& high) {
    ManyBytes found;
    memcpy(&found, which, sizeof found);
    Words pairs;
    memcpy(&pairs, g, sizeof pairs);
    const ManySigned chosen = found == (uint8_t)here;
    pairs &= (Words)__builtin_convertvector(chosen, Shorts);
    low += (Lanes)(pairs << 16);
    high += (Lanes)(pairs & 0xffff0000);
}

inline void store_pairs(bf16* p, Lanes low, Lanes high) {
    const auto rounded = [](Lanes v) {
        const Words w = (Words)v;
        return v == v ? w + 0x7fff + ((w >> 16) & 1) : w;
    };
    const Words pairs = (rounded(low) >> 16) | (rounded(high) & 0xffff0000);
    memcpy(p, &pairs, sizeof pairs);
}

void max_pool_backward(const bf16* g, const uint8_t* which, long n, long channels, Axis h, Axis w, bf16* gx) {
    if (channels % (2 * LANES)) return max_pool_backward<bf16>(g, which, n, channels, h, w, gx);
    gather(n, channels, h, w, [=](long to, const Reader* readers, long count) {
        for (long c = 0; c < channels; c += 2 * LANES) {
            Lanes low = {}, high = {};
            for (long k = 0; k < count; k++) {
                const long at = readers[k].at + c;
                add_chosen(g + at, which + at, readers[k].here, low, high);
            }
            store_pairs(gx + to + c, low, high);
        }
    });
}

template <class T>
void average_pool(const T* x, long n, long channels, Axis h, Axis w, bool count_padding, T* y) {
    const auto rows = h.shares(count_padding), columns = w.shares(count_padding);
    each_position(n, h.out, w.out, [&](long image, long oh, long ow) {
        const T* from = x + (image * h.in * w.in) * channels;
        T* to = y + ((image * h.out + oh) * w.out + ow) * channels;
        const long h0 = h.begin(oh), h1 = h.end(oh), w0 = w.begin(ow), w1 = w.end(ow);
        const float share = rows[oh] * columns[ow];
        each_lane(channels, [=](long lane, auto left) {
            Lanes sum = {};
            for (long ih = h0; ih < h1; ih++)
                for (long iw = w0; iw < w1; iw++) sum += load(from + (ih * w.in + iw) * channels + lane * LANES, left);
            store(to + lane * LANES, sum * share, left);
        });
    });
}

template <class T>
void average_pool_backward(const T* g, long n, long channels, Axis h, Axis w, bool count_padding, T* gx) {
    const auto rows = h.shares(count_padding), columns = w.shares(count_padding);
    each_position(n, h.in, w.in, [&](long image, long ih, long iw) {
        const T* from = g + (image * h.out * w.out) * channels;
        T* to = gx + ((image * h.in + ih) * w.in + iw) * channels;
        const long h0 = h.first(ih), h1 = h.last(ih), w0 = w.first(iw), w1 = w.last(iw);
        each_lane(channels, [&](long lane, auto left) {
            Lanes sum = {};
            for (long oh = h0; oh <= h1; oh++)
                for (long ow = w0; ow <= w1; ow++)
                    sum += load(from + (oh * w.out + ow) * channels + lane * LANES, left) * (rows[oh] * columns[ow]);
            store(to + lane * LANES, sum, left);
        });
    });
}

Axis axis(const long* a) { return {a[0], a[1], a[2], a[3], a[4]}; }

}  // namespace

#define FOR(T, NAME)                                                                                                           \
    void batch_norm_##NAME(const T* x, long stride, long rows, long channels, const float* weight, const float* bias,          \
                           float eps, int relu, T* y, float* affine, float* running_mean, float* running_variance,             \
                           float momentum) {                                                                                   \
        batch_norm(x, stride, rows, channels, weight, bias, eps, relu, y, affine, running_mean, running_variance, momentum);   \
    }                                                                                                                          \
    void normalize_##NAME(const T* x, long x_stride, long rows, long channels, const float* scale, const float* shift,         \
                          int relu, T* y, long y_stride) {                                                                     \
        normalize(x, x_stride, rows, channels, scale, shift, relu, y, y_stride);                                               \
    }                                                                                                                          \
    void batch_norm_backward_##NAME(const T* g, long g_stride, const T* x, long x_stride, long rows, long channels,            \
                                    const float* affine, int relu, T* gx, float* gweight, float* gbias) {                      \
        batch_norm_backward(g, g_stride, x, x_stride, rows, channels, affine, relu, gx, gweight, gbias);                       \
    }                                                                                                                          \
    void max_pool_##NAME(const T* x, long n, long channels, const long* h, const long* w, T* y, uint8_t* which) {             \
        max_pool(x, n, channels, axis(h), axis(w), y, which);                                                                 \
    }                                                                                                                          \
    void max_pool_backward_##NAME(const T* g, const uint8_t* which, long n, long channels, const long* h, const long* w,      \
                                  T* gx) {                                                                                     \
        max_pool_backward(g, which, n, channels, axis(h), axis(w), gx);                                                       \
    }                                                                                                                          \
    void average_pool_##NAME(const T* x, long n, long channels, const long* h, const long* w, int count_padding, T* y) {      \
        average_pool(x, n, channels, axis(h), axis(w), count_padding, y);                                                     \
    }                                                                                                                          \
    void average_pool_backward_##NAME(const T* g, long n, long channels, const long* h, const long* w, int count_padding,     \
                                      T* gx) {                                                                                 \
        average_pool_backward(g, n, channels, axis(h), axis(w), count_padding, gx);                                           \
    }

extern "C" {
FOR(float, float32)
FOR(bf16, bfloat16)
}
