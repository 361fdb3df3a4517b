#pragma once
#include <string>

#include "files.hpp"
#include "inputs.hpp"

namespace compare {

// Shapes and matrices of stored tensors, and complaints about them. Every complaint names the file of the tensor.
// Errors  heed::ShapeError.

[[noreturn]] void refuse(const StoredInputs& stored, const std::string& name, const std::string& complaint);

/// Matrix `n` of a tensor, refused where it is not finite: one NaN would make every error NaN.
Rows matrix_of(const StoredInputs& stored, const std::string& name, Index n);

/// How many matrices the last two axes make; refused below two axes and where an axis is 0.
Index n_matrices(const StoredInputs& stored, const std::string& name);

/// The size of an axis counted from the last one, which is 1.
Index size_from_end(const StoredInputs& stored, const std::string& name, int place);

void require_equal(const StoredInputs& stored, const std::string& name, const std::string& what, Index is, Index must);

}  // namespace compare
