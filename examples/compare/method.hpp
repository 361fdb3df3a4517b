#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <heed/core/flops.hpp>

#include "inputs.hpp"

namespace compare {

/// What a method is told besides the head.
struct Settings {
  heed::AttentionOptions options;  ///< scale and mask, which every method keeps to
  Index window = 64;               ///< for methods that look at neighbours
  std::uint64_t seed = 7;          ///< for methods that draw
  int threads = 1;
  double fraction = 0.5;  ///< share of the products of x w_v that methods with sampled values may spend
  bool decodes = false;   ///< queries come one by one, and read a cache
};

/// One method on one head, with every buffer it needs: `run` is all that is timed.
class Attempt {
 public:
  virtual ~Attempt() = default;
  /// Computes the head's output once more. Counts into `flops` unless it is null.
  virtual void run(heed::FlopCounter* flops) = 0;
  /// The output of the last run, n_q x d_v.
  [[nodiscard]] virtual heed::Matrix<float> out() const = 0;
  /// What decoding adds to the reports: nothing where queries come together.
  struct Decoding {
    double bytes = 0;     ///< of keys and values that a query read, on average
    double reported = 0;  ///< relative error the method says it has, of all queries together; 0: it says nothing
  };
  [[nodiscard]] virtual Decoding decoding() const { return {}; }
};

/// What a method needs beside q, k and v.
enum class Needs {
  nothing,
  projection,  ///< x and w_v
  tf_tree,     ///< tree_planes and tree_biases of a layer of TF
  tc_tree,     ///< the same of a layer of TC, and level_logits
};

/// "x and w_v".
std::string name_of(Needs needs);
bool has(const Inputs& inputs, Needs needs);

/// What a method leaves out: reports stand in this order and give each a hue.
enum class Family {
  exact,   ///< nothing but digits
  near,    ///< pairs by position
  trees,   ///< pairs by content
  values,  ///< products of x w_v
  all,     ///< queries and keys: what any method must beat
  within,  ///< what may be left out within a tolerance
};

/// Which runs a method takes part in.
enum class Runs { together, decoding, both };

/// "trees".
std::string name_of(Family family);

/// A way to compute attention, by name.
struct Method {
  std::string name;         ///< what --methods takes
  std::string description;  ///< one line
  Family family = Family::exact;
  bool by_default = false;       ///< runs where no method is named: one or two of a family, the best of their kind
  Needs needs = Needs::nothing;  ///< runs only where the data have it
  Runs runs = Runs::together;    ///< with --decode those that decode run, and else those that do not
  std::function<std::unique_ptr<Attempt>(const Head&, const Settings&)> bind;
};

/// Adds a method to the list. One line per method in its own file makes it known to the whole program:
/// `const Registration window{{.name = "window", ...}};`
struct Registration {
  explicit Registration(Method method);
};

/// Every method, "exact" first, then family by family and by name.
const std::vector<Method>& all_methods();

/// The methods of these names in the order of all_methods(): for no names those that run by default, for "all" all that
/// the data allow. "exact" is always among them: the others are measured against it.
/// Errors  heed::OptionError for a name there is not, or a method that needs what the data have not, or has no place
///         in this run.
std::vector<Method> chosen_methods(const std::vector<std::string>& names, const Inputs& inputs, bool decodes);

}  // namespace compare
