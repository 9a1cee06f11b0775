// sc_linear for any processor.
#include "sc_linear_kernel.h"

namespace fastheads {

const ScKernels sc_linear_plain = {pack, dots, outer, reduce, column_sums, false};

}  // namespace fastheads
