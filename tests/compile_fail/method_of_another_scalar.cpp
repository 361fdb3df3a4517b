// expect: heed: the method does not run on these operands: its scalar must be that of q, k and v
#include <span>
#include <type_traits>

#include "heed/heed.hpp"

struct DoubleOnly {
  static constexpr bool has_softmax = true;
  template <class Call>
    requires std::is_same_v<typename decltype(Call::q)::Scalar, double>
  void attend_heads(std::span<const Call>, heed::Index, const heed::AttentionOptions&, const heed::Context&) const {}
};

int main() {
  Eigen::MatrixXf q(4, 8), k(4, 8), v(4, 8);
  return static_cast<int>(heed::attend(q, k, v, {}, DoubleOnly{}).out.rows());
}
