#define HEED_TARGET "avx2,fma,f16c,prfchw"
#include "heed/kernels/begin.inl"
