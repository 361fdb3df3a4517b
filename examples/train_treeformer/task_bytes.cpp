#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <heed/core/random.hpp>

#include "file_kinds.hpp"
#include "task.hpp"

namespace train_treeformer {
namespace {

// The kind of a file from n of its bytes, which start anywhere in it. In training kinds, then packages, then files are
// equally likely. The model sees no name and no path, and is evaluated on one crop each of different files, of packages
// of which it has seen no file of this kind: as many of every kind as there are, as long as there are.
class Bytes final : public Task {
 public:
  explicit Bytes(const Arguments& arguments) : seed_(arguments.seed) {
    recipe_.length = arguments.length.value_or(arguments.quick ? 256 : 2048);
    recipe_.short_length = std::max<Index>(1, recipe_.length / 4);
    recipe_.short_steps = arguments.quick ? 150 : 300;
    recipe_.long_steps = arguments.quick ? 50 : 200;
    recipe_.converted_steps = arguments.quick ? 50 : 200;
    recipe_.n_heads = 4;
    recipe_.converted_rate = 2e-3;
    kinds_ = file_kinds(recipe_.length);
    choose_evaluated();
  }

  [[nodiscard]] Recipe recipe() const override { return recipe_; }

  void describe(heed::TransformerOptions& options) const override {
    options.vocabularies = {256};
    options.n_out = static_cast<Index>(kinds_.size());
    options.pooling = heed::Pooling::mean;
    options.attention.rotary = true;
  }

  [[nodiscard]] Batch training(Index step, Index n, Index tokens) const override {
    return batch(Purpose::training, step, n, static_cast<std::size_t>(std::max<Index>(1, tokens / n)));
  }

  [[nodiscard]] std::vector<Batch> evaluation(Index n) const override {
    std::vector<Batch> batches;
    const std::size_t at_once = std::max<std::size_t>(1, 4096 / static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < evaluated_.size(); ++i) {
      if (i % at_once == 0) batches.push_back({.tokens = {{}}, .n = n});
      const auto& [kind, path] = evaluated_[i];
      heed::CounterRng numbers(seed_, stream_of(Purpose::evaluation, static_cast<Index>(i) + 1, 0));
      batches.back().targets.push_back(kind);
      add_bytes(path, numbers, n, batches.back().tokens[0]);
    }
    return batches;
  }

  // A naive Bayes classifier of byte counts knows which bytes occur how often, but not where.
  [[nodiscard]] std::vector<Guess> guesses(const std::vector<Batch>& evaluation) const override {
    std::vector<Guess> all = Task::guesses(evaluation);
    const Index n = evaluation.front().n;
    const Batch counted = batch(Purpose::counting, 1, n, most_evaluated);
    std::vector<std::array<double, 256>> logs(kinds_.size());  // of a byte's frequency in a kind, from counts of 1 up
    for (auto& own : logs) own.fill(1);
    for (std::size_t i = 0; i < counted.tokens[0].size(); ++i) ++logs[kind_at(counted, i)][byte_at(counted, i)];
    for (auto& own : logs) {
      const double sum = std::accumulate(own.begin(), own.end(), 0.0);
      for (double& count : own) count = std::log(count / sum);
    }
    Index n_right = 0;
    for (const Batch& asked : evaluation) {
      std::vector<std::vector<double>> scores(asked.targets.size(), std::vector<double>(logs.size()));
      for (std::size_t i = 0; i < asked.tokens[0].size(); ++i) {
        for (std::size_t kind = 0; kind < logs.size(); ++kind)
          scores[i / static_cast<std::size_t>(n)][kind] += logs[kind][byte_at(asked, i)];
      }
      for (std::size_t s = 0; s < scores.size(); ++s)
        n_right += std::max_element(scores[s].begin(), scores[s].end()) - scores[s].begin() == asked.targets[s];
    }
    all.push_back(
        {"by how often each byte occurs", static_cast<double>(n_right) / static_cast<double>(evaluated_.size())});
    return all;
  }

  [[nodiscard]] Index n_told() const override { return 256; }

  [[nodiscard]] std::string about() const override {
    std::string text = std::to_string(kinds_.size()) + " kinds of files under /usr:";
    for (const FileKind& kind : kinds_) {
      text += (&kind == kinds_.data() ? " " : ", ") + kind.name + " (" + std::to_string(kind.training.size()) + " + " +
              std::to_string(kind.evaluation.size()) + " packages)";
    }
    return text + "; evaluated on " + std::to_string(evaluated_.size()) + " files";
  }

 private:
  static constexpr std::size_t most_evaluated = 2048;  // files: a standard error of 1.1 points at most

  struct Evaluated {
    std::int32_t kind;
    std::string path;
  };

  static std::size_t byte_at(const Batch& batch, std::size_t i) { return static_cast<std::size_t>(batch.tokens[0][i]); }
  static std::size_t kind_at(const Batch& batch, std::size_t i) {
    return static_cast<std::size_t>(batch.targets[i / static_cast<std::size_t>(batch.n)]);
  }

  // Files in an order by chance, a kind after the other, until there are enough or no more.
  void choose_evaluated() {
    std::vector<std::vector<std::string>> files;
    for (const FileKind& kind : kinds_) {
      std::vector<std::string>& own = files.emplace_back();
      for (const auto& paths : kind.evaluation) own.insert(own.end(), paths.begin(), paths.end());
      heed::CounterRng numbers(seed_, stream_of(Purpose::evaluation, 0, static_cast<Index>(files.size())));
      for (std::size_t i = own.size(); i > 1; --i)
        std::swap(own[i - 1], own[static_cast<std::size_t>(numbers.below(static_cast<Index>(i)))]);
    }
    for (bool more = true; more && evaluated_.size() < most_evaluated;) {
      more = false;
      for (std::size_t kind = 0; kind < files.size(); ++kind) {
        if (files[kind].empty()) continue;
        more = true;
        evaluated_.push_back({static_cast<std::int32_t>(kind), std::move(files[kind].back())});
        files[kind].pop_back();
      }
    }
    if (evaluated_.size() > most_evaluated) evaluated_.resize(most_evaluated);
  }

  [[nodiscard]] Batch batch(Purpose purpose, Index step, Index n, std::size_t n_sequences) const {
    Batch made{.tokens = {{}}, .n = n};
    for (std::size_t s = 0; s < n_sequences; ++s) {
      heed::CounterRng numbers(seed_, stream_of(purpose, step, static_cast<Index>(s)));
      const auto any_of = [&](const auto& all) -> const auto& {
        return all[static_cast<std::size_t>(numbers.below(static_cast<Index>(all.size())))];
      };
      const FileKind& kind = any_of(kinds_);
      const std::string& path = any_of(any_of(kind.training));
      made.targets.push_back(static_cast<std::int32_t>(&kind - kinds_.data()));
      add_bytes(path, numbers, n, made.tokens[0]);
    }
    return made;
  }

  static void add_bytes(const std::string& path, heed::CounterRng& numbers, Index n, std::vector<std::int32_t>& to) {
    std::ifstream stream(path, std::ios::binary | std::ios::ate);
    const Index size = static_cast<Index>(stream.tellg());
    std::string bytes(static_cast<std::size_t>(n), '\0');  // zeros where a file has shrunk since it was listed
    stream.seekg(size > n ? numbers.below(size - n + 1) : 0);
    stream.read(bytes.data(), n);
    for (const char c : bytes) to.push_back(static_cast<unsigned char>(c));
  }

  std::uint64_t seed_;
  std::vector<FileKind> kinds_;
  std::vector<Evaluated> evaluated_;
  Recipe recipe_;
};

}  // namespace

std::unique_ptr<Task> make_bytes(const Arguments& arguments) { return std::make_unique<Bytes>(arguments); }

}  // namespace train_treeformer
