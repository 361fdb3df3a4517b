// What every instance is made of, around the vector types its folder brings; included inside its namespace and region.
// In the order of use.
// clang-format off
#include "heed/kernels/bodies/tile.inl"
#include "heed/kernels/bodies/sums.inl"
#include "heed/kernels/bodies/adjust.inl"
#include "heed/kernels/bodies/gradient.inl"
#include "heed/kernels/bodies/activation.inl"
#include "heed/kernels/bodies/pack.inl"
#include "heed/kernels/bodies/pairs.inl"
#include "heed/kernels/bodies/row.inl"
#include "heed/kernels/bodies/int8.inl"
#include "heed/kernels/bodies/int8_scan.inl"
#include "heed/kernels/bodies/write.inl"
#include "heed/kernels/bodies/route.inl"
#include "heed/kernels/bodies/draw.inl"
#include "heed/kernels/bodies/project.inl"
#include "heed/kernels/bodies/tables.inl"
// clang-format on
