#pragma once
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "peers/engine.hpp"

namespace heed_bench {

/// The command line of `peers`. A wrong argument throws std::invalid_argument with what it must be.
struct Arguments {
  std::vector<Shape> shapes;  ///< n, d and heads; threads and causal are filled in setting by setting
  std::vector<int> threads{1, 2};
  std::vector<std::string> only;  ///< parts of engine names; empty: all
  std::string json, svg;          ///< files to write, empty: none
  int rounds = 7;
  double seconds = 0.04;  ///< shortest trial
  bool causal = false;
  bool decode = false;    ///< one query against n keys
  bool backward = false;  ///< gradients
  bool help = false;

  static constexpr const char* usage =
      "peers: attention by heed and by what stands beside it, interleaved in one run.\n"
      "  --threads 1,2     thread counts\n"
      "  --shapes LIST     n x d x heads, such as 2048x64x12,8192x64x4\n"
      "  --causal          query i sees keys 0 .. i (half the products, counted so)\n"
      "  --decode          one query against n keys; n is 4096 and 65536 unless --shapes tells\n"
      "  --backward        gradients of q, k and v; 10 d flops a pair and head\n"
      "  --only LIST       engines whose name contains one of these, such as heed,careful\n"
      "  --rounds 7        rounds; every engine runs once a round, the median counts\n"
      "  --seconds 0.04    shortest trial\n"
      "  --quick           two small shapes, three rounds\n"
      "  --json FILE       the same figures for programs\n"
      "  --svg FILE        a picture: what share of the peak each engine reaches\n";
};

inline std::vector<std::string> split(std::string_view text, char mark) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(mark, begin), text.size());
    if (end > begin) parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

inline long positive(const std::string& text, const char* what) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < 1)
    throw std::invalid_argument(std::string("peers: ") + what + " = " + text + " must be a whole number above 0");
  return value;
}

inline std::vector<Shape> parse_shapes(const std::string& text) {
  std::vector<Shape> shapes;
  for (const std::string& one : split(text, ',')) {
    const auto sizes = split(one, 'x');
    if (sizes.size() != 3)
      throw std::invalid_argument("peers: --shapes " + one + " must be n x d x heads, such as 2048x64x12");
    Shape shape;
    shape.n_q = shape.n_k = positive(sizes[0], "n");
    shape.d = positive(sizes[1], "d");
    shape.n_heads = positive(sizes[2], "heads");
    shapes.push_back(shape);
  }
  return shapes;
}

inline Arguments parse_arguments(int argc, const char* const* argv) {
  Arguments arguments;
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) throw std::invalid_argument("peers: " + name + " needs a value after it");
      return argv[++i];
    };
    if (name == "--help")
      arguments.help = true;
    else if (name == "--causal")
      arguments.causal = true;
    else if (name == "--decode")
      arguments.decode = true;
    else if (name == "--backward")
      arguments.backward = true;
    else if (name == "--quick")
      quick = true;
    else if (name == "--json")
      arguments.json = value();
    else if (name == "--svg")
      arguments.svg = value();
    else if (name == "--only")
      arguments.only = split(value(), ',');
    else if (name == "--rounds")
      arguments.rounds = static_cast<int>(positive(value(), "--rounds"));
    else if (name == "--seconds")
      arguments.seconds = std::strtod(value().c_str(), nullptr);
    else if (name == "--shapes")
      arguments.shapes = parse_shapes(value());
    else if (name == "--threads") {
      arguments.threads.clear();
      for (const std::string& count : split(value(), ','))
        arguments.threads.push_back(static_cast<int>(positive(count, "--threads")));
    } else {
      throw std::invalid_argument("peers: " + name + " is not an argument; --help lists them");
    }
  }
  if (arguments.decode && arguments.backward)
    throw std::invalid_argument("peers: --backward cannot be combined with --decode");
  if (quick) arguments.rounds = 3;
  if (arguments.shapes.empty() && arguments.decode)
    arguments.shapes = parse_shapes(quick ? "4096x64x12" : "4096x64x12,65536x64x12");
  if (arguments.shapes.empty())
    arguments.shapes = parse_shapes(quick ? "128x64x12,512x64x12"
                                          : "128x64x12,512x64x12,1024x64x12,2048x64x12,4096x64x12,8192x64x4,"
                                            "512x128x12,2048x128x12,8192x128x4");
  return arguments;
}

}  // namespace heed_bench
