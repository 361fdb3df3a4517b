#include "heed/trees/routed_heads.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "heed/core/entry_options.hpp"
#include "support/inputs.hpp"
#include "support/option_kinds.hpp"
#include "support/plain_tree.hpp"

namespace heed::test::routed_heads {
namespace {

TEST(SeenKeys, AreThoseThatSomeQueryOfTheHeadKeeps) {
  for (const auto& [n_q, n_k] : {std::pair<Index, Index>{37, 61}, {61, 37}, {40, 40}, {1, 30}, {3, 1}}) {
    constexpr Index n_heads = 3;
    OptionStore store(n_q, n_k, n_heads);
    for (Index row = 0; row < n_heads * n_q; ++row) {  // few keys a head, others for each
      for (Index j = 0; j < n_k; ++j) {
        const Index h = row / n_q;
        store.allowed(row, j) = store.allowed(row, j) && j % n_heads != h && (j + row) % 5 == 0;
        if (j % 4 == h || (j + row) % 3 == 0) store.masking_bias(row, j) = minus_infinity_of<double>();
      }
    }
    for (const OptionKind& a : option_kinds(store)) {
      for (const OptionKind& b : option_kinds(store)) {
        if (a.name != b.name && !fit_together(a, b)) continue;
        if (heed::detail::has_lengths(options_of(store, a, b).mask)) continue;  // methods see masks without
        SCOPED_TRACE(std::string(a.name) + " and " + std::string(b.name));
        const Mask mask = options_of(store, a, b).mask;
        const Index n_real = std::min(n_k, mask.n_real_keys);
        for (Index h = 0; h < n_heads; ++h) {
          Workspace workspace;
          Workspace::Frame frame(workspace);
          const bool* seen = heed::detail::seen_keys(mask, n_q, n_k, n_real, h, frame);
          const std::vector<bool> want = keys_seen(mask, n_q, n_k, h);
          for (Index j = 0; j < n_real; ++j)
            EXPECT_EQ(seen == nullptr || seen[j], want[static_cast<std::size_t>(j)]) << "head " << h << ", key " << j;
        }
      }
    }
  }
}

}  // namespace
}  // namespace heed::test::routed_heads
