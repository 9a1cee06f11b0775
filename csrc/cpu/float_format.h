// How a tensor's numbers are stored. No PyTorch header here: files for one instruction set read it.
#pragma once

namespace fastheads {

enum class FloatFormat { kFloat64, kFloat32, kFloat16, kBFloat16 };

}  // namespace fastheads
