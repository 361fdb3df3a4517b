#include <cstdio>

#include "support.hpp"

// fingerprints [text]: writes a line of hashes for each case, or for those whose name has the text in it. See
// README.md.
int main(int argc, char** argv) {
  fingerprints::Recorder recorder(argc > 1 ? argv[1] : "");
  fingerprints::exact_cases(recorder);
  fingerprints::decode_cases(recorder);
  fingerprints::pattern_cases(recorder);
  fingerprints::tf_cases(recorder);
  fingerprints::tc_cases(recorder);
  fingerprints::projected_cases(recorder);
  fingerprints::sampled_cases(recorder);
  fingerprints::sampled_tree_cases(recorder);
  fingerprints::importance_cases(recorder);
}
