#pragma once
#include <iostream>
#include <stdexcept>

#include <CLI/CLI.hpp>

namespace common {

/// Reads the command line; false where it asked for help, which is then printed.
/// Errors  std::invalid_argument with what is wrong with an option.
inline bool parse(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return false;
  } catch (const CLI::ParseError& error) {
    throw std::invalid_argument(error.what());
  }
  return true;
}

}  // namespace common
