#include <algorithm>
#include <array>
#include <cstddef>
#include <stdexcept>
#include <utility>

#include <heed/core/random.hpp>
#include <heed/train/cross_entropy.hpp>

#include "task.hpp"

namespace train_treeformer {
namespace {

// Symbols: digits 0 .. 9, an operator with its bracket, "]", the token that answers, and padding.
constexpr std::int32_t first_operator = 10, closing = 14, answering = 15, padding = 16;
constexpr Index n_symbols = 17, n_digits = 10;
enum Operator { smallest, largest, middle, sum_mod_10, n_operators };

// One expression, drawn by the rules of the Long Range Arena's generator: below depth 10 a node is an operator with
// probability 1/4, else a digit; operators have 2 to 10 arguments. The length is 2 an operator and 1 a digit.
class Expression {
 public:
  Expression(heed::CounterRng& numbers, Index most_tokens) : numbers_(numbers), most_tokens_(most_tokens) {
    value_ = draw(1);
  }
  [[nodiscard]] const std::vector<std::int32_t>& tokens() const { return tokens_; }
  [[nodiscard]] Index length() const { return static_cast<Index>(tokens_.size()); }
  [[nodiscard]] std::int32_t value() const { return value_; }
  [[nodiscard]] Index outermost() const { return tokens_.front() - first_operator; }

 private:
  static constexpr int most_depth = 10;

  std::int32_t draw(int depth) {
    if (length() > most_tokens_) return 0;  // too long already: it will be refused
    if (depth == most_depth || numbers_.uniform() > 0.25) {
      tokens_.push_back(static_cast<std::int32_t>(numbers_.below(n_digits)));
      return tokens_.back();
    }
    const auto name = static_cast<std::int32_t>(numbers_.below(n_operators));
    tokens_.push_back(first_operator + name);
    std::vector<std::int32_t> arguments(static_cast<std::size_t>(2 + numbers_.below(9)));
    for (std::int32_t& argument : arguments) argument = draw(depth + 1);
    tokens_.push_back(closing);
    return result(name, arguments);
  }

  static std::int32_t result(std::int32_t name, std::vector<std::int32_t>& arguments) {
    std::sort(arguments.begin(), arguments.end());
    const std::size_t half = arguments.size() / 2;
    switch (name) {
      case smallest: return arguments.front();
      case largest: return arguments.back();
      case middle: return arguments.size() % 2 == 1 ? arguments[half] : (arguments[half - 1] + arguments[half]) / 2;
      default: break;
    }
    std::int32_t sum = 0;
    for (const std::int32_t argument : arguments) sum += argument;
    return sum % 10;
  }

  heed::CounterRng& numbers_;
  Index most_tokens_;
  std::vector<std::int32_t> tokens_;
  std::int32_t value_ = 0;
};

// Value of a nested expression of minima, maxima, medians and sums modulo 10, read from its symbols. Sequences of a
// batch are of nearly one length: a first expression, drawn by the rules, says in which range of lengths the others
// are, so that every one of them is as if drawn by the rules alone, and little is padded.
class ListOps final : public Task {
 public:
  explicit ListOps(const Arguments& arguments)
      : seed_(arguments.seed),
        most_tokens_(arguments.length.value_or(arguments.quick ? 100 : 200)),
        least_tokens_(most_tokens_ / 4),
        one_length_(arguments.attention == "linformer"),
        quick_(arguments.quick) {
    if (most_tokens_ < 16) throw std::invalid_argument("--length must be >= 16 for listops");
  }

  [[nodiscard]] Recipe recipe() const override {
    Recipe recipe;
    recipe.length = most_tokens_ + 1;
    recipe.short_length = recipe.length;
    recipe.short_steps = 0;
    recipe.long_steps = quick_ ? 400 : 1500;
    recipe.converted_steps = quick_ ? 100 : 500;
    recipe.n_heads = quick_ ? 2 : 4;
    recipe.tied = false;
    recipe.rate = 2e-3;
    recipe.converted_rate = 1e-3;
    return recipe;
  }

  void describe(heed::TransformerOptions& options) const override {
    options.vocabularies = {n_symbols};
    options.n_out = n_digits;
    options.pooling = heed::Pooling::first;
    options.positions = heed::Positions::sinusoidal;
    options.attention.rotary = true;
  }

  [[nodiscard]] Batch training(Index step, Index n, Index tokens) const override {
    return batch(Purpose::training, step, n, tokens);
  }

  [[nodiscard]] std::vector<Batch> evaluation(Index n) const override {
    std::vector<Batch> batches;
    std::size_t n_sequences = 0;
    while (n_sequences < 640) {
      batches.push_back(
          batch(Purpose::evaluation, static_cast<Index>(batches.size()), n, std::max<Index>(4096, 8 * n)));
      n_sequences += batches.back().targets.size();
    }
    return batches;
  }

  [[nodiscard]] std::vector<Guess> guesses(const std::vector<Batch>& evaluation) const override {
    std::vector<Guess> all = Task::guesses(evaluation);
    std::array<std::array<Index, n_digits>, n_operators> counts{};
    heed::CounterRng numbers(seed_, stream_of(Purpose::counting, 0, 0));
    for (int e = 0; e < 20000; ++e) {
      const Expression drawn = expression(numbers, least_tokens_, most_tokens_);
      ++counts[static_cast<std::size_t>(drawn.outermost())][static_cast<std::size_t>(drawn.value())];
    }
    Index n_right = 0, n_answers = 0;
    for (const Batch& batch : evaluation) {
      for (std::size_t s = 0; s < batch.targets.size(); ++s, ++n_answers) {
        const std::int32_t outermost = batch.tokens[0][s * static_cast<std::size_t>(batch.n) + 1] - first_operator;
        const auto& own = counts[static_cast<std::size_t>(outermost)];
        n_right += std::max_element(own.begin(), own.end()) - own.begin() == batch.targets[s];
      }
    }
    all.push_back({"by the outermost operator", static_cast<double>(n_right) / static_cast<double>(n_answers)});
    return all;
  }

  [[nodiscard]] Index n_told() const override { return answering; }  // what an expression is made of

  [[nodiscard]] std::string about() const override {
    return "expressions of " + std::to_string(least_tokens_) + " to " + std::to_string(most_tokens_) + " symbols";
  }

 private:
  static Expression expression(heed::CounterRng& numbers, Index least, Index most) {
    for (;;) {
      Expression drawn(numbers, most);
      if (drawn.length() >= least && drawn.length() <= most && drawn.length() > 1) return drawn;
    }
  }

  [[nodiscard]] Batch batch(Purpose purpose, Index step, Index n, Index tokens) const {
    const Index most = std::min(n - 1, most_tokens_), range = std::max<Index>(1, (most - least_tokens_ + 11) / 12);
    heed::CounterRng numbers(seed_, stream_of(purpose, step, 0));
    const Index first = (expression(numbers, least_tokens_, most).length() - least_tokens_) / range * range;
    const Index least = least_tokens_ + first, longest = std::min(most, least + range - 1);
    Batch made{.tokens = {{}}, .n = one_length_ ? n : longest + 1};
    for (Index s = 0; s < std::max<Index>(1, tokens / made.n); ++s) {
      heed::CounterRng own(seed_, stream_of(purpose, step, s + 1));
      const Expression drawn = expression(own, least, longest);
      made.tokens[0].push_back(answering);
      made.tokens[0].insert(made.tokens[0].end(), drawn.tokens().begin(), drawn.tokens().end());
      made.tokens[0].resize(static_cast<std::size_t>((s + 1) * made.n), padding);
      made.targets.push_back(drawn.value());
    }
    return made;
  }

  std::uint64_t seed_;
  Index most_tokens_, least_tokens_;
  bool one_length_, quick_;
};

}  // namespace

std::unique_ptr<Task> make_listops(const Arguments& arguments) { return std::make_unique<ListOps>(arguments); }

}  // namespace train_treeformer
