#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/tc_attention.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/options.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"

namespace heed::test {

/// All that the loss <d_out, out> of TC-attention may be derived by, or the gradients by it.
struct TcPoint {
  Matrix<double> q, k, v, planes;
  Vector<double> biases, logits;

  TcPoint zero() const {
    TcPoint to = *this;
    to.visit([](auto& part) { part.setZero(); });
    return to;
  }
  template <class Visit>
  void visit(const Visit& act) {
    act(q), act(k), act(v), act(planes), act(biases), act(logits);
  }
};

/// The gradient of TC-attention in plain loops and double, and the function whose ordinary derivative it is: leaves are
/// hard where they are taken, and move as soft ones, g = softmax(P s), s = sign(z) moving as clamp(z, -1, 1). Which
/// nodes hold keys stays as it is.
class PlainTcGradient {
 public:
  template <class S>
  PlainTcGradient(const TcAttention<S>& tc, const DecisionTree<S>& tree, const Inputs<double>& in,
                  const Matrix<double>& d_out, const AttentionOptions& options, bool routes = true)
      : at{in.q,
           in.k,
           in.v,
           tree.planes().template cast<double>(),
           tree.biases().template cast<double>(),
           tc.level_logits().template cast<double>()},
        d_out_(d_out),
        options_(options),
        by_query_(tc.options().by_query),
        routes_(routes),
        height_(tree.height()),
        lift_(Vector<double>::Zero(tree.biases().size())),
        scale_(options.scale.value_or(1 / std::sqrt(static_cast<double>(in.k.cols())))) {
    if (tree.lift()) {
      radius_ = static_cast<double>(tree.lift()->radius);
      lift_ = tree.lift()->weights.template cast<double>();
    }
    paths_ = Matrix<double>::Zero(n_leaves(), n_leaves() - 1);
    for (Index leaf = 0; leaf < n_leaves(); ++leaf) {
      for (Index node = n_leaves() + leaf; node > 1; node /= 2) paths_(leaf, node / 2 - 1) = node % 2 == 1 ? 1 : -1;
    }
    z_q_ = projections(at, at.q, false);
    z_k_ = projections(at, at.k, true);
    hard_q_ = hard(tree.leaf_of(in.q.template cast<S>().eval()), z_q_);
    hard_k_ = hard(tree.leaf_of_keys(in.k.template cast<S>().eval()), z_k_);
  }

  TcPoint at;  ///< where the gradient is taken

  /// The function itself, equal to <d_out, out> at `at`.
  double objective(const TcPoint& x) const {
    const Matrix<double> g_q = moved(hard_q_, z_q_, projections(x, x.q, false)),
                         g_k = moved(hard_k_, z_k_, projections(x, x.k, true));
    double loss = 0;
    for (Index i = 0; i < x.q.rows(); ++i) {
      const Nodes nodes = nodes_of(x, i, g_k);
      for (Index leaf = 0; leaf < n_leaves(); ++leaf)
        loss += g_q(i, leaf) * see(x, nodes, i, leaf).out.dot(d_out_.row(i));
    }
    return loss;
  }

  TcPoint gradient() const {
    TcPoint to = at.zero();
    const Index n_q = at.q.rows(), n_k = at.k.rows(), n_nodes = 2 * n_leaves();
    Matrix<double> u_q = Matrix<double>::Zero(n_q, n_leaves()), m_k = Matrix<double>::Zero(n_k, n_nodes),
                   u_k = Matrix<double>::Zero(n_k, n_leaves());
    for (Index i = 0; i < n_q; ++i) {
      const Nodes nodes = nodes_of(at, i, hard_k_);
      const Eigen::RowVectorXd g = d_out_.row(i), q = at.q.row(i);
      for (Index leaf = 0; leaf < n_leaves(); ++leaf) {
        const View view = see(at, nodes, i, leaf);
        u_q(i, leaf) = g.dot(view.out);
        if (hard_q_(i, leaf) == 0) continue;
        for (Index t = 0; t <= height_; ++t) {
          const Index v = (n_leaves() + leaf) >> (height_ - t);
          if (view.alpha(t) < 0) continue;
          const double n = nodes.n(v), alpha = view.alpha(t), p = g.dot(nodes.v.row(v)) / n;
          const double by_logit = alpha * (p - g.dot(view.out)), by_score = by_query_ ? by_logit : 0;
          const Eigen::RowVectorXd mean_k = nodes.k.row(v) / n;
          to.logits(t) += by_logit;
          to.q.row(i) += scale_ * by_score * mean_k;
          for (Index j = 0; j < n_k; ++j) {
            if (!kept(i, j)) continue;
            m_k(j, v) +=
                alpha * (g.dot(at.v.row(j)) - p) / n + by_score * (1 + scale_ * q.dot(at.k.row(j) - mean_k)) / n;
            if (!below(j, v)) continue;
            to.v.row(j) += alpha / n * g;
            to.k.row(j) += scale_ * by_score / n * q;
          }
        }
      }
    }
    for (Index j = 0; j < n_k; ++j) {
      for (Index leaf = 0; leaf < n_leaves(); ++leaf) {
        for (Index v = n_leaves() + leaf; v > 0; v /= 2) u_k(j, leaf) += m_k(j, v);
      }
    }
    if (routes_ && height_ > 0) {
      add_routing(u_q, z_q_, at.q, false, to, to.q);
      add_routing(u_k, z_k_, at.k, true, to, to.k);
    }
    return to;
  }

 private:
  struct Nodes {
    Vector<double> n;
    std::vector<bool> empty;
    Matrix<double> v, k;  // sums
  };
  struct View {
    Eigen::RowVectorXd out;
    Vector<double> alpha;  // -1: the level does not count
  };

  Index n_leaves() const { return Index(1) << height_; }
  bool kept(Index i, Index j) const {
    return heed::detail::reference_pair(options_.mask, i, j, at.q.rows(), at.k.rows(), 0).kept;
  }
  bool below(Index j, Index v) const {
    for (Index leaf = 0; leaf < n_leaves(); ++leaf) {
      if (hard_k_(j, leaf) == 0) continue;
      for (Index node = n_leaves() + leaf; node > 0; node /= 2) {
        if (node == v) return true;
      }
    }
    return false;
  }

  double extra(const Matrix<double>& x, Index j) const {
    return std::sqrt(std::max(0.0, radius_ * radius_ - x.row(j).squaredNorm()));
  }
  Matrix<double> projections(const TcPoint& x, const Matrix<double>& tokens, bool keys) const {
    Matrix<double> z(tokens.rows(), x.biases.size());
    for (Index i = 0; i < z.rows(); ++i) {
      for (Index v = 0; v < z.cols(); ++v)
        z(i, v) = tokens.row(i).dot(x.planes.row(v)) + (keys ? lift_(v) * extra(tokens, i) : 0.0) + x.biases(v);
    }
    return z;
  }
  // One in each token's leaf. On its path z becomes what the leaf says, where rounding alone decides its sign.
  Matrix<double> hard(const Vector<Index>& leaf_of, Matrix<double>& z) const {
    Matrix<double> g = Matrix<double>::Zero(z.rows(), n_leaves());
    for (Index i = 0; i < z.rows(); ++i) {
      g(i, leaf_of(i)) = 1;
      for (Index node = n_leaves() + leaf_of(i); node > 1; node /= 2) {
        double& own = z(i, node / 2 - 1);
        if (node % 2 == 1 ? own < 0 : own >= 0) {
          EXPECT_NEAR(own, 0, 1e-12);
          own = node % 2 == 1 ? 0 : -1e-300;
        }
      }
    }
    return g;
  }
  Vector<double> soft(const Vector<double>& s) const {
    const Vector<double> powers = (paths_ * s).array().exp();
    return powers / powers.sum();
  }
  static double sign(double z) { return z >= 0 ? 1 : -1; }
  Matrix<double> moved(const Matrix<double>& from, const Matrix<double>& z0, const Matrix<double>& z) const {
    Matrix<double> g = from;
    if (!routes_ || height_ == 0) return g;
    for (Index i = 0; i < z.rows(); ++i) {
      Vector<double> s0(z.cols()), s(z.cols());
      for (Index v = 0; v < z.cols(); ++v) {
        s0(v) = sign(z0(i, v));
        s(v) = s0(v) + std::clamp(z(i, v), -1.0, 1.0) - std::clamp(z0(i, v), -1.0, 1.0);
      }
      g.row(i) += (soft(s) - soft(s0)).transpose();
    }
    return g;
  }

  // What the nodes hold for query i where key j lies in leaf l with weight g(j, l).
  Nodes nodes_of(const TcPoint& x, Index i, const Matrix<double>& g) const {
    const Index n_nodes = 2 * n_leaves();
    Nodes nodes{Vector<double>::Zero(n_nodes), std::vector<bool>(static_cast<std::size_t>(n_nodes), true),
                Matrix<double>::Zero(n_nodes, x.v.cols()), Matrix<double>::Zero(n_nodes, x.k.cols())};
    for (Index j = 0; j < x.k.rows(); ++j) {
      if (!kept(i, j)) continue;
      for (Index leaf = 0; leaf < n_leaves(); ++leaf) {
        for (Index v = n_leaves() + leaf; v > 0; v /= 2) {
          nodes.n(v) += g(j, leaf);
          nodes.v.row(v) += g(j, leaf) * x.v.row(j);
          nodes.k.row(v) += g(j, leaf) * x.k.row(j);
          if (hard_k_(j, leaf) > 0) nodes.empty[static_cast<std::size_t>(v)] = false;
        }
      }
    }
    return nodes;
  }

  View see(const TcPoint& x, const Nodes& nodes, Index i, Index leaf) const {
    View view{Eigen::RowVectorXd::Zero(x.v.cols()), Vector<double>::Constant(height_ + 1, -1)};
    double top = -HUGE_VAL, sum = 0;
    Vector<double> scores(height_ + 1);
    const auto visit = [&](const auto& act) {
      for (Index t = 0; t <= height_; ++t) {
        const Index v = (n_leaves() + leaf) >> (height_ - t);
        if (!nodes.empty[static_cast<std::size_t>(v)] && !heed::detail::is_minus_infinity(x.logits(t))) act(t, v);
      }
    };
    visit([&](Index t, Index v) {
      scores(t) = x.logits(t);
      if (by_query_) scores(t) += std::log(nodes.n(v)) + scale_ * x.q.row(i).dot(nodes.k.row(v)) / nodes.n(v);
      top = std::max(top, scores(t));
    });
    visit([&](Index t, Index) { sum += view.alpha(t) = std::exp(scores(t) - top); });
    visit([&](Index t, Index v) { view.out += (view.alpha(t) /= sum) * nodes.v.row(v) / nodes.n(v); });
    return view;
  }

  void add_routing(const Matrix<double>& u, const Matrix<double>& z, const Matrix<double>& tokens, bool keys,
                   TcPoint& to, Matrix<double>& d_tokens) const {
    for (Index i = 0; i < u.rows(); ++i) {
      const Vector<double> s = z.row(i).unaryExpr([](double x) { return sign(x); }).transpose();
      const Vector<double> g = soft(s), by_leaf = u.row(i).transpose();
      const Vector<double> by_score = g.array() * (by_leaf.array() - g.dot(by_leaf));
      const Vector<double> by_sign = paths_.transpose() * by_score;
      for (Index v = 0; v < z.cols(); ++v) {
        const double y = std::abs(z(i, v)) <= 1 ? by_sign(v) : 0;
        to.planes.row(v) += y * tokens.row(i);
        to.biases(v) += y;
        d_tokens.row(i) += y * at.planes.row(v);
        const double e = keys ? extra(tokens, i) : 0;
        if (e > 0) d_tokens.row(i) -= y * lift_(v) / e * tokens.row(i);
      }
    }
  }

  Matrix<double> d_out_;
  AttentionOptions options_;
  bool by_query_, routes_;
  Index height_;
  Vector<double> lift_;
  double scale_, radius_ = 0;
  Matrix<double> paths_;  // leaves x nodes, -1, 0, 1
  Matrix<double> z_q_, z_k_, hard_q_, hard_k_;
};

}  // namespace heed::test
