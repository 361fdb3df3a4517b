#include "peers/modules.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "peers/arguments.hpp"

namespace heed_bench {

std::vector<Engine*> load_engines(const std::vector<std::string>& only) {
  static std::vector<std::unique_ptr<Engine>> kept;  // destroyed before the modules are unloaded: they never are
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  std::vector<Engine*> engines;
  for (const std::string& name : split(HEED_PEER_MODULES, ',')) {
    const std::filesystem::path file = folder / ("peer_" + name + ".so");
    void* module = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) {
      std::fprintf(stderr, "peers: leaving out %s: %s\n", name.c_str(), dlerror());
      continue;
    }
    const auto make = reinterpret_cast<decltype(&heed_bench_engine)>(dlsym(module, "heed_bench_engine"));
    for (int index = 0; make != nullptr; ++index) {
      std::unique_ptr<Engine> engine(make(index));
      if (engine == nullptr) break;
      const std::string full = engine->name();
      const bool wanted = only.empty() || std::any_of(only.begin(), only.end(), [&](const std::string& part) {
                            return full.find(part) != std::string::npos;
                          });
      if (!wanted) continue;
      engines.push_back(engine.get());
      kept.push_back(std::move(engine));
    }
  }
  return engines;
}

}  // namespace heed_bench
