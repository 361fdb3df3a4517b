#include <omp.h>

#include "../main_program.hpp"

Eigen::MatrixXf attend_elsewhere(const Eigen::MatrixXf& q, const Eigen::MatrixXf& k, const Eigen::MatrixXf& v);

// A user of OpenMP calls heed with any number of threads, from inside a parallel region of their own, and from a unit
// that knows nothing of OpenMP.
int main() {
  Eigen::MatrixXf q(300, 64), k(300, 64), v(300, 64);
  check::fill(q, 10);
  check::fill(k, 11);
  check::fill(v, 12);
  const int eigen_threads = Eigen::nbThreads();
  const Eigen::MatrixXf alone = heed::attend(q, k, v, {}, heed::ExactAttention{}, {.threads = 1}).out;
  int wrong = main_program("openmp") | check::attention("one thread", q, k, v, alone);

  for (const heed::Index threads : {0, 2, 3, 7}) {
    const Eigen::MatrixXf together = heed::attend(q, k, v, {}, heed::ExactAttention{}, {.threads = threads}).out;
    if (together != alone) {
      std::cerr << threads << " threads returned other bits than one\n";
      wrong = 1;
    }
  }

  if (attend_elsewhere(q, k, v) != alone) {
    std::cerr << "a unit without OpenMP returned other bits\n";
    wrong = 1;
  }

  int different = 0;
#pragma omp parallel for num_threads(4) reduction(+ : different)
  for (int call = 0; call < 8; ++call) {
    const Eigen::MatrixXf nested = heed::attend(q, k, v).out;
    different += nested != alone ? 1 : 0;
  }
  if (different != 0) std::cerr << different << " of 8 calls inside a parallel region returned other bits\n";
  if (Eigen::nbThreads() != eigen_threads) {
    std::cerr << "Eigen's number of threads was changed\n";
    wrong = 1;
  }
  return wrong | (different != 0 ? 1 : 0);
}
