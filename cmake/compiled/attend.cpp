#include "heed/exact/attend.hpp"
#include "heed/exact/detail/compiled.hpp"

HEED_ATTENDS();
