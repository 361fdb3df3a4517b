#pragma once
#include <string>
#include <vector>

#include "peers/engine.hpp"

namespace heed_bench {

/// The engines of every module that was built, in the order of the build's list, whose name contains one of `only`
/// (all, where it is empty). Modules lie beside the program and stay loaded until it ends.
std::vector<Engine*> load_engines(const std::vector<std::string>& only);

}  // namespace heed_bench
