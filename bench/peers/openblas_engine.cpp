// The flash schedule on OpenBLAS. A block is the work of one thread, so the pool of OpenBLAS stays idle.
#include <cblas.h>

#include "peers/flash_backward.hpp"
#include "peers/flash_schedule.hpp"

namespace heed_bench {
namespace {

struct OpenBlasGemm {
  static void run(bool turn_a, bool turn_b, Eigen::Index m, Eigen::Index n, Eigen::Index k, float alpha, const float* a,
                  Eigen::Index lda, const float* b, Eigen::Index ldb, float beta, float* c, Eigen::Index ldc) {
    cblas_sgemm(CblasRowMajor, turn_a ? CblasTrans : CblasNoTrans, turn_b ? CblasTrans : CblasNoTrans, blasint(m),
                blasint(n), blasint(k), alpha, a, blasint(lda), b, blasint(ldb), beta, c, blasint(ldc));
  }
};

std::string name_with_core(const char* name) { return std::string(name) + " (" + openblas_get_corename() + ")"; }

class OpenBlasFlash final : public FlashSchedule<OpenBlasGemm> {
 public:
  [[nodiscard]] std::string name() const override { return name_with_core("openblas flash"); }
  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    openblas_set_num_threads(1);
    FlashSchedule::prepare(shape, sets, out);
  }
};

class OpenBlasBackward final : public FlashBackward<OpenBlasGemm> {
 public:
  [[nodiscard]] std::string name() const override { return name_with_core("openblas flash"); }
  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    openblas_set_num_threads(1);
    FlashBackward::prepare(shape, sets, out);
  }
};

}  // namespace
}  // namespace heed_bench

heed_bench::Engine* heed_bench_engine(int index) {
  if (index == 0) return new heed_bench::OpenBlasFlash;
  if (index == 1) return new heed_bench::OpenBlasBackward;
  return nullptr;
}
