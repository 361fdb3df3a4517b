#include "arguments.hpp"

#include <algorithm>
#include <charconv>
#include <functional>
#include <limits>
#include <stdexcept>

#include <CLI/CLI.hpp>

#include "../common/output_files.hpp"
#include "../common/parse.hpp"

namespace compare {
namespace {

long whole_number(const std::string& text, const std::string& option, long least) {
  long value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least) {
    throw std::invalid_argument(option + " has \"" + text +
                                "\" but must have whole numbers >= " + std::to_string(least));
  }
  return value;
}

GeneratedSize generated_size(const std::string& text) {
  const auto parts = CLI::detail::split(text, ',');
  if (parts.size() != 3) {
    throw std::invalid_argument("--generate is \"" + text + "\" but must be heads,n,d as in 8,4096,64");
  }
  return {whole_number(parts[0], "--generate", 1), whole_number(parts[1], "--generate", 1),
          whole_number(parts[2], "--generate", 1)};
}

// "3" or "2..5".
void read_heads(const std::string& text, Arguments& arguments) {
  const auto dots = text.find("..");
  arguments.first_head = whole_number(text.substr(0, dots), "--heads", 0);
  arguments.last_head =
      dots == std::string::npos ? arguments.first_head : whole_number(text.substr(dots + 2), "--heads", 0);
  if (arguments.last_head < arguments.first_head) {
    throw std::invalid_argument("--heads is \"" + text + "\" but must be one number, or two that rise as in 2..5");
  }
}

void check(const Arguments& arguments) {
  const bool arrays = !(arguments.q + arguments.k + arguments.v + arguments.x + arguments.w_v + arguments.b_v).empty();
  if (arrays + !arguments.input.empty() + arguments.generate.has_value() > 1) {
    throw std::invalid_argument("--input, --q --k --v and --generate exclude each other: give one of the three");
  }
  if (arrays && (arguments.q.empty() || arguments.k.empty())) {
    throw std::invalid_argument("--q and --k must both be given with .npy files");
  }
  if (arguments.x.empty() != arguments.w_v.empty()) {
    throw std::invalid_argument("--x and --w-v must be given together");
  }
  if (!arguments.b_v.empty() && arguments.x.empty()) throw std::invalid_argument("--b-v needs --x and --w-v");
  if (arrays && arguments.v.empty() && arguments.x.empty()) {
    throw std::invalid_argument("--v is missing: give it, or --x and --w-v to make it from");
  }
  const bool runs = arguments.n.size() > 1;
  if (!arguments.svg_n.empty() && !runs)
    throw std::invalid_argument("--svg-n needs two lengths at least: --n 512,1024");
  if (runs && !(arguments.json + arguments.svg + arguments.svg_flops).empty()) {
    throw std::invalid_argument("--json, --svg and --svg-flops are of one run: give one --n, or draw --svg-n");
  }
  if (!std::is_sorted(arguments.n.begin(), arguments.n.end(), std::less_equal<>())) {
    throw std::invalid_argument("--n must rise, as in 512,1024");
  }
  common::require_apart({{"--input", arguments.input},
                         {"--q", arguments.q},
                         {"--k", arguments.k},
                         {"--v", arguments.v},
                         {"--x", arguments.x},
                         {"--w-v", arguments.w_v},
                         {"--b-v", arguments.b_v}},
                        {{"--json", arguments.json},
                         {"--svg", arguments.svg},
                         {"--svg-flops", arguments.svg_flops},
                         {"--svg-n", arguments.svg_n}});
  if (arguments.scale && !(std::abs(*arguments.scale) <= std::numeric_limits<double>::max())) {
    throw std::invalid_argument("--scale must be a finite number");
  }
}

}  // namespace

std::optional<Arguments> read_arguments(int argc, const char* const* argv) {
  Arguments arguments;
  std::string generate;
  std::string heads;
  CLI::App app("Runs attention methods on the same heads and says what each costs and how far off it is.", "compare");
  app.footer(
      "Without files it takes activations of a trained model that come with heed. Files: examples/compare/README.md.\n"
      "Exit code 0; 1 where a result is not finite; 2 for a file or an option that cannot be used. One line says "
      "which.");
  app.add_option("--input", arguments.input, ".safetensors with q, k and v, or x and w_v in place of v")
      ->type_name("FILE");
  app.add_option("--q", arguments.q, "queries, .npy: (n, d), (heads, n, d) or (layers, heads, n, d)")
      ->type_name("FILE");
  app.add_option("--k", arguments.k, "keys, likewise")->type_name("FILE");
  app.add_option("--v", arguments.v, "values, likewise; default: x w_v")->type_name("FILE");
  app.add_option("--x", arguments.x, "layer input, .npy: (n, d_model) or (layers, n, d_model)")->type_name("FILE");
  app.add_option("--w-v", arguments.w_v, "value weights, .npy: (d_model, heads * d_v), one or per layer")
      ->type_name("FILE");
  app.add_option("--b-v", arguments.b_v, "value bias, .npy: (heads * d_v), one or per layer")->type_name("FILE");
  app.add_option("--generate", generate, "random inputs of any size: no data, for timing only")->type_name("HEADS,N,D");
  app.add_option("--heads", heads, "these heads only, counted from 0, both ends included")->type_name("A..B");
  app.add_option("--causal", arguments.causal, "mask; default: as the file says, else none")
      ->check(CLI::IsMember({"none", "square", "top_left", "bottom_right"}))
      ->type_name("none|square|top_left|bottom_right")
      ->option_text("none|square|top_left|bottom_right");
  app.add_option("--scale", arguments.scale, "multiplies q.k; default: as the file says, else 1/sqrt(d)");
  app.add_option("--real-keys", arguments.real_keys, "keys from here on are padding")->check(CLI::NonNegativeNumber);
  app.add_option("--n", arguments.n, "the first N tokens only, of q, k, v and x; several: one run after another")
      ->delimiter(',')
      ->check(CLI::Range(1, 10000000))
      ->type_name("N,...");
  app.add_option("--decode", arguments.decode,
                 "the last N queries only, one by one against a cache of the keys and values, float and smaller ones")
      ->check(CLI::Range(1, 10000000))
      ->type_name("N");
  app.add_option("--methods", arguments.methods,
                 "these, separated by commas, or all; default: one or two of a family, see --list-methods")
      ->delimiter(',')
      ->type_name("NAMES");
  app.add_flag("--list-methods", arguments.list_methods, "print the methods there are, family by family, and stop");
  app.add_option("--window", arguments.window, "keys to the left (and right) of the sliding window, default 64")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--fraction", arguments.fraction,
                 "products of x w_v that methods with sampled values spend, default 0.5: twice fewer")
      ->check(CLI::Range(1e-6, 1.0));
  app.add_option("--seed", arguments.seed, "of random inputs and of methods that draw, default 7");
  app.add_option("--threads", arguments.threads, "default 1; 0: as many as OpenMP gives")->check(CLI::Range(0, 1024));
  app.add_option("--repeats", arguments.repeats, "timed rounds; default: as many as fit about three seconds")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--json", arguments.json, "write every number here")->type_name("FILE");
  app.add_option("--svg", arguments.svg, "draw error against time here")->type_name("FILE");
  app.add_option("--svg-flops", arguments.svg_flops, "draw error against FLOPs here")->type_name("FILE");
  app.add_option("--svg-n", arguments.svg_n, "draw error and speed over the lengths of --n here")->type_name("FILE");
  app.add_flag("--progress", arguments.progress, "progress on stderr even where it is no terminal");
  if (!common::parse(app, argc, argv)) return std::nullopt;
  if (!generate.empty()) arguments.generate = generated_size(generate);
  if (!heads.empty()) read_heads(heads, arguments);
  check(arguments);
  return arguments;
}

}  // namespace compare
