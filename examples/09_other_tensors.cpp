// Tensors of other libraries, without copies: PyTorch, flash-attn, ONNX, Keras and KataGo, each call beside its own.
// See PORTING.md for what the names of arguments become.
#include <array>
#include <cstdio>
#include <vector>

#include <heed/heed.hpp>

namespace {

using heed::Index;

// torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), each batch x heads x n
// x d
void pytorch(const float* q, const float* k, const float* v, float* out, Index batch, Index heads, Index kv_heads,
             Index n_q, Index n_k, Index d) {
  heed::batch_attend_into(heed::heads_first(out, batch, heads, n_q, d), nullptr,
                          heed::heads_first(q, batch, heads, n_q, d), heed::heads_first(k, batch, kv_heads, n_k, d),
                          heed::heads_first(v, batch, kv_heads, n_k, d), {.mask = {.causal = heed::Causal::top_left}});
}

// flash_attn_func(q, k, v, window_size=(left, right)), each batch x n x heads x d: the window is centred on the
// bottom-right diagonal, with or without causal=True
void flash_attn(const float* q, const float* k, const float* v, float* out, Index batch, Index heads, Index kv_heads,
                Index n_q, Index n_k, Index d, Index left, Index right) {
  heed::batch_attend_into(heed::tokens_first(out, batch, n_q, heads, d), nullptr,
                          heed::tokens_first(q, batch, n_q, heads, d), heed::tokens_first(k, batch, n_k, kv_heads, d),
                          heed::tokens_first(v, batch, n_k, kv_heads, d),
                          {.mask = {.shift = n_k - n_q, .window_left = left, .window_right = right}});
}

// flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=lengths, causal=True): each entry's last query sees its
// own last key
void flash_attn_cache(const float* q, const float* k, const float* v, const std::vector<Index>& lengths, float* out,
                      Index heads, Index n_q, Index capacity, Index d) {
  const auto batch = static_cast<Index>(lengths.size());
  heed::batch_attend_into(heed::tokens_first(out, batch, n_q, heads, d), nullptr,
                          heed::tokens_first(q, batch, n_q, heads, d), heed::tokens_first(k, batch, capacity, heads, d),
                          heed::tokens_first(v, batch, capacity, heads, d),
                          {.mask = {.causal = heed::Causal::bottom_right, .key_lengths = lengths}});
}

// ONNX Attention with past_key and past_value concatenated before k and v, is_causal=1: queries continue the past
void onnx(const float* q, const float* k, const float* v, float* out, Index batch, Index heads, Index n_q, Index past,
          Index d) {
  heed::batch_attend_into(heed::heads_first(out, batch, heads, n_q, d), nullptr,
                          heed::heads_first(q, batch, heads, n_q, d), heed::heads_first(k, batch, heads, past + n_q, d),
                          heed::heads_first(v, batch, heads, past + n_q, d),
                          {.mask = {.causal = heed::Causal::top_left, .shift = past}});
}

// keras.layers.MultiHeadAttention, whose attention_mask is batch x 1 x n_q x n_k, true = may attend
void keras(const float* q, const float* k, const float* v, const bool* attention_mask, float* out, Index batch,
           Index heads, Index n_q, Index n_k, Index d) {
  heed::batch_attend_into(heed::tokens_first(out, batch, n_q, heads, d), nullptr,
                          heed::tokens_first(q, batch, n_q, heads, d), heed::tokens_first(k, batch, n_k, heads, d),
                          heed::tokens_first(v, batch, n_k, heads, d),
                          {.mask = {.allowed = heed::heads_first(attention_mask, batch, 1, n_q, n_k)}});
}

// KataGo's Eigen backend: (heads * d) x (boards * points), column-major, so that features of a point lie side by side;
// a mask of the points that are on the board, one row a board
void katago(const float* q, const float* k, const float* v,
            const Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>& on_board, float* out,
            Index heads, Index d) {
  const Index boards = on_board.rows(), points = on_board.cols();
  heed::batch_attend_into(heed::tokens_first(out, boards, points, heads, d), nullptr,
                          heed::tokens_first(q, boards, points, heads, d),
                          heed::tokens_first(k, boards, points, heads, d),
                          heed::tokens_first(v, boards, points, heads, d), {.mask = {.keys = on_board}});
}

}  // namespace

int main() {
  const Index batch = 2, heads = 4, n = 9, d = 8;
  std::vector<float> q, k, v, out(static_cast<std::size_t>(batch * heads * n * d));
  for (std::size_t t = 0; t < out.size(); ++t) {
    q.push_back(0.1f * static_cast<float>(t % 7));
    k.push_back(0.1f * static_cast<float>(t % 5) - 0.2f);
    v.push_back(0.1f * static_cast<float>(t % 11));
  }
  const auto say = [&](const char* whose) { std::printf("%-18s %.4f\n", whose, static_cast<double>(out.back())); };
  pytorch(q.data(), k.data(), v.data(), out.data(), batch, heads, heads, n, n, d), say("PyTorch");
  flash_attn(q.data(), k.data(), v.data(), out.data(), batch, heads, heads, 4, n, d, 3, 1), say("flash-attn");
  flash_attn_cache(q.data(), k.data(), v.data(), {n, 5}, out.data(), heads, 2, n, d), say("flash-attn, cache");
  onnx(q.data(), k.data(), v.data(), out.data(), batch, heads, 3, n - 3, d), say("ONNX, past");
  std::array<bool, 2 * 9 * 9> mask{};
  for (std::size_t t = 0; t < mask.size(); ++t) mask[t] = t % 3 != 0;
  keras(q.data(), k.data(), v.data(), mask.data(), out.data(), batch, heads, n, n, d), say("Keras");
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> on_board(batch, n);
  on_board.setConstant(true);
  on_board.row(1).tail(5).setConstant(false);  // a smaller board
  katago(q.data(), k.data(), v.data(), on_board, out.data(), heads, d), say("KataGo");
}
