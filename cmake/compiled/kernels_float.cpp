#include "heed/kernels/bf16_kernels.hpp"
#include "instantiate_kernels.hpp"

HEED_TABLES(float);
HEED_TABLE(heed::detail::Bf16Kernels);
