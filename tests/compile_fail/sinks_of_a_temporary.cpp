// expect: heed: numbers per head would dangle: they view a temporary list; name the list first
#include <vector>

#include "heed/heed.hpp"

int main() {
  heed::AttentionOptions options{.sinks = std::vector<float>{0.5f, 0.25f}};
  return options.sinks.given() ? 1 : 0;
}
