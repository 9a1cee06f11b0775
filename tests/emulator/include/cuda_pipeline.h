#pragma once

#include <cuda_runtime.h>

#define __pipeline_memcpy_async(to, from, bytes) \
  do {                                           \
    static_assert((bytes) == 16);                \
    ::emulator::copy_async(to, from, __LINE__);  \
  } while (0)
#define __pipeline_commit ::emulator::commit_copies
#define __pipeline_wait_prior ::emulator::wait_for_copies
