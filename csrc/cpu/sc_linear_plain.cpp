// sc_linear for any processor.
#include "sc_linear_kernel.h"

namespace fastheads {

const ScKernels sc_linear_plain = {pack,        dots,        lanes,        outer, reduce,
                                   column_sums, kPanelBytes, kVectorBytes, false};

}  // namespace fastheads
