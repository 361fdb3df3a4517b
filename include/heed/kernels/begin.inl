// Opens the region an instance is compiled in; end.inl closes it. HEED_TARGET holds the instructions its functions may
// use, as a string of the attribute `target`; without it they use those every CPU of the architecture has. README.md
// says why there are regions. clang-format off
#define HEED_INLINE [[gnu::always_inline]]
#define HEED_PRAGMA_TEXT(...) _Pragma(#__VA_ARGS__)
#define HEED_PRAGMA(...) HEED_PRAGMA_TEXT(__VA_ARGS__)  // the text after macros: g++ expands none in these pragmas
#if defined(__clang__)
#pragma float_control(push)
#pragma float_control(precise, on)
#ifdef HEED_TARGET
HEED_PRAGMA(clang attribute push(__attribute__((target(HEED_TARGET))), apply_to = function))
#endif
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("O2", "no-fast-math")
#pragma GCC diagnostic push
// g++ warns of `T sum[rows]` where the template's argument `rows` is a signed number, and of the masks inside its own
// AVX-512 intrinsics. Clang does neither, and so watches every other conversion of these bodies.
#pragma GCC diagnostic ignored "-Wsign-conversion"
#ifdef HEED_TARGET
HEED_PRAGMA(GCC target(HEED_TARGET))
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12 warns inside its own AVX-512 intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif
