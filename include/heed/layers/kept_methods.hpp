#pragma once
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include "heed/approx/linformer_attention.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tf_attention.hpp"

namespace heed::detail {

/// Methods of one kind, one a head, and room for their gradients.
template <class Method>
struct MethodsOfHeads {
  std::vector<Method> methods;
  std::vector<typename Method::Gradients> gradients;
};

/// What a layer makes of its method's parameters, kept from pass to pass by whoever runs it: only the first pass, and
/// one for another choice of method, allocates.
template <class T>
class KeptMethods {
 public:
  template <class Method>
  MethodsOfHeads<Method>& of() {
    if constexpr (std::is_same_v<Method, TfAttention<T>>) {
      return tf_;
    } else if constexpr (std::is_same_v<Method, TcAttention<T>>) {
      return tc_;
    } else {
      static_assert(std::is_same_v<Method, LinformerAttention<T>>, "heed: no other method has parameters");
      return linformer_;
    }
  }
  /// Room for the gradients of methods that are its own.
  template <class Method>
  std::span<typename Method::Gradients> room_for_gradients(const std::vector<Method>& methods) {
    auto& room = of<Method>().gradients;
    room.resize(methods.size());
    for (std::size_t h = 0; h < methods.size(); ++h) methods[h].size_gradients(room[h]);
    return room;
  }

 private:
  MethodsOfHeads<TfAttention<T>> tf_;
  MethodsOfHeads<TcAttention<T>> tc_;
  MethodsOfHeads<LinformerAttention<T>> linformer_;
};

}  // namespace heed::detail
