#include "stored.hpp"

#include <heed/core/errors.hpp>

namespace compare {
namespace {

std::string shape_of(const StoredInputs& stored, const std::string& name) {
  std::string text;
  for (const Index size : stored.tensors.at(name).shape()) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + ")";
}

}  // namespace

void refuse(const StoredInputs& stored, const std::string& name, const std::string& complaint) {
  throw heed::ShapeError("heed: " + stored.origin.at(name) + ": " + complaint);
}

Rows matrix_of(const StoredInputs& stored, const std::string& name, Index n) {
  auto matrix = std::make_shared<heed::Matrix<float>>(stored.tensors.at(name).nth_matrix<float>(n));
  if (!matrix->allFinite()) {
    refuse(stored, name, "matrix " + std::to_string(n) + " has a NaN or an infinity but must be finite");
  }
  return matrix;
}

Index n_matrices(const StoredInputs& stored, const std::string& name) {
  const heed::Tensor& tensor = stored.tensors.at(name);
  if (tensor.rank() < 2 || tensor.size() == 0) {
    refuse(stored, name, "shape is " + shape_of(stored, name) + " but must have two axes or more, none of them 0");
  }
  return tensor.n_matrices();
}

Index size_from_end(const StoredInputs& stored, const std::string& name, int place) {
  return stored.tensors.at(name).shape().end()[-place];
}

void require_equal(const StoredInputs& stored, const std::string& name, const std::string& what, Index is, Index must) {
  if (is != must) {
    refuse(stored, name,
           what + " is " + std::to_string(is) + " but must be " + std::to_string(must) + "; its shape is " +
               shape_of(stored, name));
  }
}

}  // namespace compare
