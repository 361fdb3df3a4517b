// Closes the region that begin.inl opened.
#if defined(__clang__)
#ifdef HEED_TARGET
#pragma clang attribute pop
#endif
#pragma float_control(pop)
#elif defined(__GNUC__)
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
#undef HEED_INLINE
#undef HEED_PRAGMA
#undef HEED_PRAGMA_TEXT
#undef HEED_TARGET
