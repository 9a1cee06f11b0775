// Vectors as wide as the instruction set of the including file, and how each format is loaded into
// and stored from them. Everything is local to that file, so that no function compiled for AVX-512
// can be linked into the code that runs everywhere; hence no PyTorch header either.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "float_format.h"

namespace fastheads {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T, int kBytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <typename T, int kBytes = kVectorBytes>
using Vector = typename VectorOf<T, kBytes>::type;

template <typename T>
constexpr int64_t kLanes = kVectorBytes / sizeof(T);

// How much of a vector is meant: all of it, or its first lanes.
struct All {};
struct Some {
  int64_t count;
};

// Calls body(i, All{}) for every whole vector of size numbers, then body(i, Some{the rest}).
template <typename T, class Body>
void for_vectors(int64_t size, Body body) {
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>) body(i, All{});
  if (i < size) body(i, Some{size - i});
}

// Calls body(count) for a count from 1 to most that is known to the compiler.
template <int most, class Body>
void for_count(int64_t count, Body body) {
  if constexpr (most > 1) {
    if (count < most) return for_count<most - 1>(count, body);
  }
  body(std::integral_constant<int, most>());
}

template <typename V, typename T>
V read(const T* p, All) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <typename V, typename T>
void write(T* p, V v, All) {
  std::memcpy(p, &v, sizeof(v));
}

// The lanes beyond the count are 0.
template <typename V, typename T>
V read(const T* p, Some part) {
#if defined(__AVX512F__)
  const uint32_t mask = (uint32_t(1) << part.count) - 1;
  if constexpr (sizeof(T) == 2) return (V)_mm256_maskz_loadu_epi16(mask, p);
  if constexpr (sizeof(T) == 4) return (V)_mm512_maskz_loadu_epi32(mask, p);
  if constexpr (sizeof(T) == 8) return (V)_mm512_maskz_loadu_epi64(mask, p);
#else
  T lanes[sizeof(V) / sizeof(T)] = {};
  for (int64_t i = 0; i < part.count; ++i) lanes[i] = p[i];
  return read<V>(lanes, All{});
#endif
}

template <typename V, typename T>
void write(T* p, V v, Some part) {
#if defined(__AVX512F__)
  const uint32_t mask = (uint32_t(1) << part.count) - 1;
  if constexpr (sizeof(T) == 2) _mm256_mask_storeu_epi16(p, mask, (__m256i)v);
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_epi32(p, mask, (__m512i)v);
  if constexpr (sizeof(T) == 8) _mm512_mask_storeu_epi64(p, mask, (__m512i)v);
#else
  T lanes[sizeof(V) / sizeof(T)];
  write(lanes, v, All{});
  for (int64_t i = 0; i < part.count; ++i) p[i] = lanes[i];
#endif
}

// To an address aligned to the vector, without reading what is there into the caches. Other threads
// see it after finish_writes().
template <typename T, typename V>
void write_past_caches(T* p, V v) {
  static_assert(sizeof(V) == kVectorBytes || 2 * sizeof(V) == kVectorBytes);
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 16) return _mm_stream_si128((__m128i*)p, (__m128i)v);
  if constexpr (sizeof(V) == 32) return _mm256_stream_si256((__m256i*)p, (__m256i)v);
#endif
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_stream_si512((__m512i*)p, (__m512i)v);
#endif
  write(p, v, All{});
}

inline void finish_writes() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// True in the lanes below count.
template <typename T>
auto first_lanes(int64_t count) {
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Vector<Index> lane;
  for (int64_t i = 0; i < kLanes<T>; ++i) lane[i] = static_cast<Index>(i);
  return lane < Vector<Index>{} + static_cast<Index>(count);
}

template <typename T>
struct Float {  // float32 and float64: stored as they are summed
  using raw_t = T;
  using sum_t = T;
  template <class Part>
  static Vector<T> load(const T* p, Part part) {
    return read<Vector<T>>(p, part);
  }
  static Vector<T> pack(Vector<T> v) { return v; }
  template <class Part>
  static void store(T* p, Vector<T> v, Part part) {
    write(p, v, part);
  }
};

using Float32 = Float<float>;
using Float64 = Float<double>;
using Word = Vector<uint32_t>;
using HalfWord = Vector<uint16_t, kVectorBytes / 2>;

// GCC 12 takes __builtin_convertvector apart where one instruction would do.
inline Word widen(HalfWord v) {
#if defined(__AVX512F__)
  return (Word)_mm512_cvtepu16_epi32((__m256i)v);
#elif defined(__AVX2__)
  return (Word)_mm256_cvtepu16_epi32((__m128i)v);
#else
  return __builtin_convertvector(v, Word);
#endif
}

inline HalfWord narrow(Word v) {
#if defined(__AVX512F__)
  return (HalfWord)_mm512_cvtepi32_epi16((__m512i)v);
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32((__m256i)v, (__m256i)v);  // of each 128 bits twice
  return (HalfWord)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0b1000));
#else
  return __builtin_convertvector(v, HalfWord);
#endif
}

struct BFloat16 {
  using raw_t = uint16_t;
  using sum_t = float;
  template <class Part>
  static Vector<float> load(const uint16_t* p, Part part) {
    return (Vector<float>)(widen(read<HalfWord>(p, part)) << 16);
  }
  // To the nearest, ties to even; NaN stays NaN.
  static HalfWord pack(Vector<float> v) {
    const Word bits = (Word)v, rounded = bits + 0x7fff + (bits >> 16 & 1);
    const Word kept = v == v ? rounded : bits | 0x400000;
    return narrow(kept >> 16);
  }
  template <class Part>
  static void store(uint16_t* p, Vector<float> v, Part part) {
    write(p, pack(v), part);
  }
};

struct Float16 {
  using raw_t = uint16_t;
  using sum_t = float;
  template <class Part>
  static Vector<float> load(const uint16_t* p, Part part) {
    const HalfWord half = read<HalfWord>(p, part);
#if defined(__AVX512F__)
    return _mm512_cvtph_ps((__m256i)half);
#elif defined(__AVX2__)
    return _mm256_cvtph_ps((__m128i)half);
#else
    // The exponent is moved by a product, which also makes subnormals normal.
    const Word bits = widen(half), magnitude = bits & 0x7fff;
    const Word number = (Word)((Vector<float>)(magnitude << 13) * 0x1p112f);
    const Word special = magnitude << 13 | 0x7f800000;
    return (Vector<float>)((magnitude < 0x7c00 ? number : special) | (bits & 0x8000) << 16);
#endif
  }
  static HalfWord pack(Vector<float> v) {
#if defined(__AVX512F__)
    return (HalfWord)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__AVX2__)
    return (HalfWord)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#else
    const Word bits = (Word)v, magnitude = bits & 0x7fffffff;
    const Word normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
    // The sum with 0.5 rounds at the place of the last bit of a subnormal.
    const Word subnormal = (Word)((Vector<float>)magnitude + 0.5f) - (126u << 23);
    Word half = magnitude < (113u << 23) ? subnormal : normal;
    half = magnitude < (143u << 23) ? half : Word{} + 0x7c00;
    half = magnitude <= 0x7f800000 ? half : Word{} + 0x7e00;
    return narrow(half | (bits >> 16 & 0x8000));
#endif
  }
  template <class Part>
  static void store(uint16_t* p, Vector<float> v, Part part) {
    write(p, pack(v), part);
  }
};

// The sum of the 128-bit parts, by halves.
template <typename T, int kBytes>
Vector<T, 16> fold(Vector<T, kBytes> v) {
  if constexpr (kBytes == 16) {
    return v;
  } else {
    struct Halves {
      Vector<T, kBytes / 2> low, high;
    };
    const auto halves = __builtin_bit_cast(Halves, v);
    return fold<T, kBytes / 2>(halves.low + halves.high);
  }
}

// The sum of all lanes.
template <typename T>
T sum_lanes(Vector<T> v) {
  const Vector<T, 16> w = fold<T, kVectorBytes>(v);
  if constexpr (sizeof(T) == 8) return w[0] + w[1];
  return (w[0] + w[1]) + (w[2] + w[3]);
}

// Lanes picked from a and b within every 128 bits: the low or the high halves of a and b, by
// numbers of T, in turns.
template <typename T, bool high, typename V, int... lane>
V interleave(V a, V b, std::integer_sequence<int, lane...>) {
  constexpr int kHalf = 8 / sizeof(T), kSize = sizeof...(lane);
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  using Indices = Vector<Index, sizeof(V)>;
  constexpr auto from = [](int i) {
    const int within = i % (2 * kHalf);
    return i - within + within / 2 + high * kHalf + within % 2 * kSize;
  };
#ifdef __clang__
  return __builtin_shufflevector(a, b, from(lane)...);
#else
  return __builtin_shuffle(a, b, Indices{from(lane)...});
#endif
}

template <typename T>
Vector<T> add_interleaved(Vector<T> a, Vector<T> b) {
  constexpr std::make_integer_sequence<int, kLanes<T>> lanes;
  return interleave<T, false>(a, b, lanes) + interleave<T, true>(a, b, lanes);
}

// out[0:4] = the sums of all lanes of four vectors, at once.
inline void sum_lanes(const Vector<double> (&v)[4], double* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum_lanes<double>(v[i]);
}

inline void sum_lanes(const Vector<float> (&v)[4], float* out) {
  const auto first = (Vector<double>)add_interleaved<float>(v[0], v[1]);
  const auto last = (Vector<double>)add_interleaved<float>(v[2], v[3]);
  constexpr std::make_integer_sequence<int, kLanes<double>> lanes;
  const auto all = (Vector<float>)interleave<double, false>(first, last, lanes) +
                   (Vector<float>)interleave<double, true>(first, last, lanes);
  write(out, fold<float, kVectorBytes>(all), All{});
}

// e^x, clamped to where float32 has normal results; within 2 units in the last place.
inline Vector<float> exp(Vector<float> x) {
  using V = Vector<float>;
  const V low = V{} - 87.0f, high = V{} + 88.0f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const V shifted = x * 1.44269504f + 12582912.0f;  // 1.5 2^23: the integer is in the last bits
  const V n = shifted - 12582912.0f;
  const V r = x - n * 0.693359375f + n * 2.12194440e-4f;  // log 2 in two parts
  V p = V{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (V)(((Word)shifted + 127) << 23);
}

inline Vector<double> exp(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// Calls body(Format()) for the format.
template <class Body>
void for_format(FloatFormat format, Body body) {
  if (format == FloatFormat::kFloat64) return body(Float64());
  if (format == FloatFormat::kFloat32) return body(Float32());
  if (format == FloatFormat::kFloat16) return body(Float16());
  body(BFloat16());
}

}  // namespace
}  // namespace fastheads
