#include <cmath>
#include <numbers>
#include <random>

#include <unistd.h>

#include <heed/core/errors.hpp>

#include "inputs.hpp"

namespace compare {
namespace {

// Box and Muller's normal numbers: the same on every standard library, which std::normal_distribution is not.
Rows normal_rows(Index rows, Index cols, double deviation, std::mt19937_64& random) {
  auto matrix = std::make_shared<heed::Matrix<float>>(rows, cols);
  const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
  for (Index i = 0; i < matrix->size(); ++i) {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    matrix->data()[i] = static_cast<float>(deviation * radius * std::cos(2 * std::numbers::pi * uniform()));
  }
  return matrix;
}

void refuse_what_does_not_fit(const GeneratedSize& size) {
  const double heads = static_cast<double>(size.heads);
  const double n = static_cast<double>(size.n);
  const double d = static_cast<double>(size.d);
  const double bytes =
      4.0 * (8 * heads * n * d + heads * d * heads * d);  // inputs, outputs, copies in 16 bits, one in double
  const double machine = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  if (bytes > machine) {
    const auto gib = [](double b) { return std::to_string(static_cast<long long>(std::ceil(b / (1 << 30)))) + " GiB"; };
    throw heed::OptionError("heed: --generate " + std::to_string(size.heads) + "," + std::to_string(size.n) + "," +
                            std::to_string(size.d) + " takes about " + gib(bytes) + " but must fit this machine's " +
                            gib(machine));
  }
}

}  // namespace

Inputs generate_inputs(const GeneratedSize& size, std::uint64_t seed) {
  refuse_what_does_not_fit(size);
  std::mt19937_64 random(seed);
  Inputs inputs;
  inputs.generated = true;
  inputs.source = "GENERATED random numbers, seed " + std::to_string(seed);
  const Index d_model = size.heads * size.d;
  const Rows x = normal_rows(size.n, d_model, 1, random);
  for (Index h = 0; h < size.heads; ++h) {
    Head head;
    head.number = h;
    head.q = normal_rows(size.n, size.d, 1, random);
    head.k = normal_rows(size.n, size.d, 1, random);
    head.x = x;
    head.w_v = normal_rows(d_model, size.d, 1 / std::sqrt(static_cast<double>(d_model)), random);
    head.v = std::make_shared<heed::Matrix<float>>(*x * *head.w_v);
    inputs.heads.push_back(std::move(head));
  }
  return inputs;
}

}  // namespace compare
