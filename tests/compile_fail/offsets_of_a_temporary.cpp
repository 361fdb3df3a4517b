// expect: heed: sequence offsets would dangle: they view a temporary list; name the list first
#include <vector>

#include "heed/heed.hpp"

int main() {
  heed::AttentionOptions options{.mask = {.sequence_offsets = std::vector<heed::Index>{0, 3, 5}}};
  return options.mask.sequence_offsets.empty() ? 1 : 0;
}
