// The flash schedule on OpenBLAS. A block is the work of one thread, so the pool of OpenBLAS stays idle.
#include <cblas.h>

#include "peers/flash_schedule.hpp"

namespace heed_bench {
namespace {

struct OpenBlasGemm {
  static void scores(Eigen::Index m, Eigen::Index n, Eigen::Index k, float alpha, const float* a, Eigen::Index lda,
                     const float* b, Eigen::Index ldb, float* c, Eigen::Index ldc) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, blasint(m), blasint(n), blasint(k), alpha, a, blasint(lda), b,
                blasint(ldb), 0.0F, c, blasint(ldc));
  }
  static void add_values(Eigen::Index m, Eigen::Index n, Eigen::Index k, const float* a, Eigen::Index lda,
                         const float* b, Eigen::Index ldb, float* c, Eigen::Index ldc) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(m), blasint(n), blasint(k), 1.0F, a, blasint(lda), b,
                blasint(ldb), 1.0F, c, blasint(ldc));
  }
};

class OpenBlasFlash final : public FlashSchedule<OpenBlasGemm> {
 public:
  [[nodiscard]] std::string name() const override {
    return std::string("openblas flash (") + openblas_get_corename() + ")";
  }
  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    openblas_set_num_threads(1);
    FlashSchedule::prepare(shape, sets, out);
  }
};

}  // namespace
}  // namespace heed_bench

heed_bench::Engine* heed_bench_engine(int index) { return index == 0 ? new heed_bench::OpenBlasFlash : nullptr; }
