#include "heed/engine/detail/compiled.hpp"
#include "heed/engine/run_backward.hpp"

HEED_GRADIENT_ENGINES();
