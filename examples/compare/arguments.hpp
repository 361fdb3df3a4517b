#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace compare {

/// What `--generate heads,n,d` asks for.
struct GeneratedSize {
  long heads = 0;
  long n = 0;
  long d = 0;
};

/// The command line, read and checked as far as it can be without opening a file.
struct Arguments {
  std::string input;                      ///< one .safetensors file
  std::string q, k, v, x, w_v, b_v;       ///< or one .npy file each
  std::optional<GeneratedSize> generate;  ///< or no file at all
  std::optional<std::string> causal;      ///< none, square, top_left or bottom_right; default: as the file says
  std::optional<double> scale;            ///< default: as the file says, else 1/sqrt(d)
  std::optional<long> real_keys;          ///< keys from here on are padding
  std::vector<long> n;                    ///< the first n tokens only, a run each; empty: all tokens
  std::optional<long> decode;             ///< the last queries, one by one against a cache
  long first_head = 0;                    ///< heads first_head ... last_head, both included
  long last_head = -1;                    ///< -1: to the last one
  std::vector<std::string> methods;       ///< names; empty: those that run by default; or all
  long window = 64;                       ///< keys the sliding window sees to the left
  double fraction = 0.5;                  ///< products of x w_v that sampled values may spend
  std::uint64_t seed = 7;                 ///< of generated inputs and of methods that draw
  int threads = 1;                        ///< 0: as many as OpenMP gives
  int repeats = 0;                        ///< timed rounds; 0: as many as fit about three seconds
  std::string json, svg, svg_flops;       ///< files to write, of one run
  std::string svg_n;                      ///< of all runs
  bool progress = false;                  ///< also where stderr is no terminal
  bool list_methods = false;
};

/// Reads the command line. Prints help and returns nullopt for --help.
/// Errors  std::invalid_argument, one line, for anything that is no option or a value outside its range.
std::optional<Arguments> read_arguments(int argc, const char* const* argv);

}  // namespace compare
