#include "heed/engine/detail/compiled.hpp"
#include "heed/engine/run_pairs.hpp"

HEED_ENGINES();
