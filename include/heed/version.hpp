#pragma once

/// \file
/// The version of the library, as three numbers for the preprocessor. CMake reads it from here, so it is written once.

#define HEED_VERSION_MAJOR 0  ///< changes when programs must change
#define HEED_VERSION_MINOR 2  ///< while the major number is 0, programs may have to change here too
#define HEED_VERSION_PATCH 0  ///< corrections only
