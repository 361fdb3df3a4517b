// expect: heed: sequence offsets would dangle: they view a temporary list; name the list first
#include "heed/heed.hpp"

int main() {
  heed::Mask mask;
  mask.key_sequence_offsets = {0, 5};
  return mask.key_sequence_offsets.empty() ? 1 : 0;
}
