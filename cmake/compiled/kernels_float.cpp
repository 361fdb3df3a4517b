#include "heed/kernels/bf16_kernels.hpp"
#include "heed/kernels/int8_kernels.hpp"
#include "heed/kernels/int8_panel_kernels.hpp"
#include "instantiate_kernels.hpp"

HEED_TABLES(float);
HEED_TABLE(heed::detail::Bf16Kernels);
HEED_TABLE(heed::detail::Int8Kernels);
HEED_TABLE(heed::detail::Int8PanelKernels);
