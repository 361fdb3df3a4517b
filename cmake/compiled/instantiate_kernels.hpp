#pragma once
#include "heed/kernels/instances.hpp"

// The definitions behind HEED_COMPILED (heed/kernels/select.hpp): every table the headers may ask for.

#define HEED_TABLE(...) template const __VA_ARGS__* heed::detail::find_kernels<__VA_ARGS__>(heed::Isa)

#define HEED_TABLES_OF_STORAGE(T, S)              \
  HEED_TABLE(heed::detail::StorageKernels<T, S>); \
  HEED_TABLE(heed::detail::WidenKernels<T, S>);   \
  HEED_TABLE(heed::detail::RouteKernels<T, S>)

#define HEED_TABLES(T)                            \
  HEED_TABLE(heed::detail::TileKernels<T>);       \
  HEED_TABLE(heed::detail::ProjectKernels<T>);    \
  HEED_TABLE(heed::detail::GradientKernels<T>);   \
  HEED_TABLE(heed::detail::ActivationKernels<T>); \
  HEED_TABLES_OF_STORAGE(T, float);               \
  HEED_TABLES_OF_STORAGE(T, double);              \
  HEED_TABLES_OF_STORAGE(T, heed::detail::Half);  \
  HEED_TABLES_OF_STORAGE(T, heed::detail::Bfloat)
