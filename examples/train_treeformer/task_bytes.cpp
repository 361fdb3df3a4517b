#include <algorithm>
#include <cstddef>
#include <fstream>
#include <map>

#include <heed/core/random.hpp>

#include "file_kinds.hpp"
#include "task.hpp"

namespace train_treeformer {
namespace {

// The kind of a file from n of its bytes, which start anywhere in it. Kinds, then packages, then files are equally
// likely. The model sees no name and no path, and is evaluated on packages of which it has seen no file of this kind.
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
  }

  [[nodiscard]] Recipe recipe() const override { return recipe_; }

  void describe(heed::TransformerOptions& options) const override {
    options.vocabularies = {256};
    options.n_out = static_cast<Index>(kinds_.size());
    options.pooling = heed::Pooling::mean;
    options.attention.rotary = true;
  }

  [[nodiscard]] Batch training(Index step, Index n, Index tokens) const override {
    return batch(Purpose::training, step, n, std::max<Index>(1, tokens / n));
  }

  [[nodiscard]] std::vector<Batch> evaluation(Index n) const override {
    std::vector<Batch> batches;
    const Index at_once = std::max<Index>(1, 4096 / n);
    for (Index first = 0; first < 640; first += at_once)
      batches.push_back(batch(Purpose::evaluation, first, n, std::min<Index>(at_once, 640 - first)));
    return batches;
  }

  [[nodiscard]] std::string about() const override {
    std::string text = std::to_string(kinds_.size()) + " kinds of files under /usr:";
    for (const FileKind& kind : kinds_) {
      text += (&kind == kinds_.data() ? " " : ", ") + kind.name + " (" + std::to_string(kind.training.size()) + " + " +
              std::to_string(kind.evaluation.size()) + " packages)";
    }
    return text;
  }

 private:
  [[nodiscard]] Batch batch(Purpose purpose, Index step, Index n, Index n_sequences) const {
    Batch made{.tokens = {{}}, .n = n};
    for (Index s = 0; s < n_sequences; ++s) {
      heed::CounterRng numbers(seed_, stream_of(purpose, step, s));
      const auto any_of = [&](const auto& all) -> const auto& {
        return all[static_cast<std::size_t>(numbers.below(static_cast<Index>(all.size())))];
      };
      const FileKind& kind = any_of(kinds_);
      const std::string& path = any_of(any_of(purpose == Purpose::training ? kind.training : kind.evaluation));
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
  Recipe recipe_;
};

}  // namespace

std::unique_ptr<Task> make_bytes(const Arguments& arguments) { return std::make_unique<Bytes>(arguments); }

}  // namespace train_treeformer
