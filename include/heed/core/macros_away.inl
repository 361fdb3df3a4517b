// Puts macros away that <windows.h> defines and that would break our headers, or those of the standard library that
// they include. macros_back.inl brings them back. Around every header that users are told to include (heed.hpp lists
// them); a header inside of it that is included by name needs them away too.
#pragma push_macro("min")
#pragma push_macro("max")
#pragma push_macro("small")
#pragma push_macro("near")
#pragma push_macro("far")
#undef min
#undef max
#undef small
#undef near
#undef far
