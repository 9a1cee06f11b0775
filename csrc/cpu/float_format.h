// How a tensor's numbers are stored. No PyTorch header here: files for one instruction set read it.
#pragma once

namespace fastheads {

enum class FloatFormat { kFloat64, kFloat32, kFloat16, kBFloat16 };

constexpr int bytes_of(FloatFormat format) {
  return format == FloatFormat::kFloat64 ? 8 : format == FloatFormat::kFloat32 ? 4 : 2;
}

}  // namespace fastheads
