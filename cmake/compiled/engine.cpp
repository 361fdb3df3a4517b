#include "heed/engine/detail/compiled.hpp"

HEED_ENGINES();
