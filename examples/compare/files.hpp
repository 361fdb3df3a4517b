#pragma once
#include <map>
#include <optional>
#include <string>

#include <heed/io/tensor.hpp>

#include "arguments.hpp"

namespace compare {

/// The tensors of one comparison as they stand in files, named q, k, v, x, w_v, b_v, and what the file says of them.
struct StoredInputs {
  std::string source;
  std::map<std::string, heed::Tensor> tensors;  ///< q and k always; v, or x and w_v, or all three
  std::map<std::string, std::string> origin;    ///< file of each tensor, for messages
  std::optional<std::string> causal;            ///< metadata "causal": true or false
  std::optional<double> scale;                  ///< metadata "scale"
};

/// Opens what the arguments name; without files, the example data.
StoredInputs open_files(const Arguments& arguments);

}  // namespace compare
