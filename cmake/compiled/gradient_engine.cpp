#include "heed/engine/detail/compiled.hpp"

HEED_GRADIENT_ENGINES();
