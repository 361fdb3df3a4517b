#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include <heed/core/digest.hpp>
#include <heed/core/random.hpp>

#include "../common/printf_text.hpp"
#include "task.hpp"

namespace train_treeformer {
namespace {

namespace fs = std::filesystem;

std::string contents_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// heed's own headers, one after another in the order of their paths.
std::string own_headers() {
#ifdef HEED_EXAMPLE_HEADERS
  fs::path folder = HEED_EXAMPLE_HEADERS;
#else
  fs::path folder;
#endif
  std::error_code failure;
  if (folder.empty() || !fs::is_directory(folder, failure)) folder = "include/heed";
  if (!fs::is_directory(folder, failure)) throw std::runtime_error("include/heed is not there; give --file");
  std::vector<fs::path> paths;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().extension() == ".hpp") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::string text;
  for (const fs::path& path : paths) text += contents_of(path);
  return text;
}

// The next byte of a text, from the bytes before it. The last tenth of the text is for evaluation.
class TextLm final : public Task {
 public:
  explicit TextLm(const Arguments& arguments) : seed_(arguments.seed) {
    if (!arguments.file.empty() && !fs::is_regular_file(arguments.file))
      throw std::runtime_error("--file is " + arguments.file + " but must be a file that can be read");
    text_ = arguments.file.empty() ? own_headers() : contents_of(arguments.file);
    recipe_.length = arguments.length.value_or(arguments.quick ? 256 : 1024);
    recipe_.short_length = std::max<Index>(2, recipe_.length / 4);
    recipe_.short_steps = arguments.quick ? 200 : 600;
    recipe_.long_steps = arguments.quick ? 50 : 300;
    recipe_.converted_steps = arguments.quick ? 50 : 300;
    recipe_.n_heads = 4;
    recipe_.tied = false;
    recipe_.rate = 2e-3;
    recipe_.converted_rate = 1e-3;
    n_training_ = static_cast<Index>(text_.size()) * 9 / 10;
    if (static_cast<Index>(text_.size()) - n_training_ < 2 * recipe_.length) {
      throw std::runtime_error("the text has " + std::to_string(text_.size()) + " bytes but must have " +
                               std::to_string(20 * recipe_.length) + ": shorten --length or give another --file");
    }
  }

  [[nodiscard]] Recipe recipe() const override { return recipe_; }

  void describe(heed::TransformerOptions& options) const override {
    options.vocabularies = {256};
    options.n_out = 256;
    options.attention.causal = true;
    options.attention.rotary = true;
  }

  [[nodiscard]] Batch training(Index step, Index n, Index tokens) const override {
    Batch batch{.tokens = {{}}, .n = n};
    for (Index s = 0; s < std::max<Index>(1, tokens / n); ++s)
      add(heed::CounterRng(seed_, stream_of(Purpose::training, step, s)).below(n_training_ - n), batch);
    return batch;
  }

  [[nodiscard]] std::vector<Batch> evaluation(Index n) const override {
    const Index n_left = static_cast<Index>(text_.size()) - n_training_ - 1;
    const Index n_sequences = std::min<Index>(n_left / n, std::max<Index>(2, 16384 / n));
    std::vector<Batch> batches;
    for (Index s = 0; s < n_sequences; ++s) {  // evenly over what was kept
      batches.push_back({.tokens = {{}}, .n = n});
      add(n_training_ + s * (n_left - n) / std::max<Index>(1, n_sequences - 1), batches.back());
    }
    return batches;
  }

  [[nodiscard]] std::vector<Guess> guesses(const std::vector<Batch>& evaluation) const override {
    std::vector<Guess> all = Task::guesses(evaluation);
    std::vector<std::array<Index, 256>> counts(256);
    for (Index i = 0; i + 1 < n_training_; ++i) ++counts[byte(i)][byte(i + 1)];
    Index n_answers = 0, n_right = 0;
    for (const Batch& batch : evaluation) {
      for (std::size_t i = 0; i < batch.targets.size(); ++i, ++n_answers) {
        const auto& own = counts[static_cast<std::size_t>(batch.tokens[0][i])];
        n_right += std::max_element(own.begin(), own.end()) - own.begin() == batch.targets[i];
      }
    }
    all.push_back({"by the byte before", static_cast<double>(n_right) / static_cast<double>(n_answers)});
    return all;
  }

  [[nodiscard]] std::string about() const override { return std::to_string(text_.size()) + " bytes of text"; }

  [[nodiscard]] std::string source() const override {
    heed::detail::Digest digest;
    for (const char c : text_) digest.add(static_cast<unsigned char>(c));
    return common::format("%zu bytes %016llx", text_.size(), static_cast<unsigned long long>(digest.sum()));
  }

 private:
  [[nodiscard]] std::size_t byte(Index i) const {
    return static_cast<unsigned char>(text_[static_cast<std::size_t>(i)]);
  }
  void add(Index first, Batch& to) const {
    for (Index i = first; i < first + to.n; ++i) {
      to.tokens[0].push_back(static_cast<std::int32_t>(byte(i)));
      to.targets.push_back(static_cast<std::int32_t>(byte(i + 1)));
    }
  }

  std::uint64_t seed_;
  std::string text_;
  Index n_training_ = 0;
  Recipe recipe_;
};

}  // namespace

std::unique_ptr<Task> make_text_lm(const Arguments& arguments) { return std::make_unique<TextLm>(arguments); }

}  // namespace train_treeformer
