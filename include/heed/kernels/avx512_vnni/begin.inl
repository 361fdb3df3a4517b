#define HEED_TARGET "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw"
#include "heed/kernels/begin.inl"
