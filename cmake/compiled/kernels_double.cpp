#include "instantiate_kernels.hpp"

HEED_TABLES(double);
