#include "heed/heed.hpp"

Eigen::MatrixXf attend_elsewhere(const Eigen::MatrixXf& q, const Eigen::MatrixXf& k, const Eigen::MatrixXf& v) {
  return heed::attend(q, k, v).out;
}
