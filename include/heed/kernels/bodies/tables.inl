// The tables of this instance, last of its bodies.

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using X = Vf;
};
template <>
struct VectorOf<double> {
  using X = Vd;
};

template <class X>
inline constexpr TileKernels<typename X::Scalar> tile_table = {
    X::lanes,       X::vectors,     X::rows,   &scores<X>,  &advance<X>,    &weigh<X>,   &values<X>,    &adjust<X>,
    &lane_masks<X>, &all_masked<X>, &bound<X>, &exclude<X>, &all_finite<X>, &row_top<X>, &row_weigh<X>,
};

template <class X, class S>
inline constexpr StorageKernels<typename X::Scalar, S> storage_table = {
    &transpose<X, S>,  &gather<X, S>,   &pack_values<X, S>, &row_scores<X, S>,
    &row_values<X, S>, &add_rows<X, S>, writer<X, S>(),
};

template <class X, class S>
inline constexpr WidenKernels<typename X::Scalar, S> widen_table = {&widen<X, S>};

template <class X, class S>
inline constexpr RouteKernels<typename X::Scalar, S> route_table = {&route<X, S>, &project<X, S>};

template <class X>
inline constexpr ProjectKernels<typename X::Scalar> project_table = {
    X::lanes,       encode_limit, &encode<X>,     &products<X>, &centre<X>,     &square<X>, &count_above<X>,
    &list_above<X>, &fold<X>,     &finish_row<X>, &multiply<X>, &interleave<X>, &draw<Vu>,
};

template <class X>
inline constexpr GradientKernels<typename X::Scalar> gradient_table = {&gradients<X>, &bend<X>, &add_rows<X>,
                                                                       &add_products<X>};

template <class X>
inline constexpr ActivationKernels<typename X::Scalar> activation_table = {&gelu<X>, &gelu_backward<X>};

// The table of type Table; null where this instance has none.
template <class Table>
inline constexpr const Table* table = nullptr;
template <class T>
inline constexpr const TileKernels<T>* table<TileKernels<T>> = &tile_table<typename VectorOf<T>::X>;
template <class T, class S>
inline constexpr const StorageKernels<T, S>* table<StorageKernels<T, S>> = &storage_table<typename VectorOf<T>::X, S>;
template <class T, class S>
inline constexpr const WidenKernels<T, S>* table<WidenKernels<T, S>> = &widen_table<typename VectorOf<T>::X, S>;
template <class T, class S>
inline constexpr const RouteKernels<T, S>* table<RouteKernels<T, S>> = &route_table<typename VectorOf<T>::X, S>;
template <class T>
inline constexpr const ProjectKernels<T>* table<ProjectKernels<T>> = &project_table<typename VectorOf<T>::X>;
template <class T>
inline constexpr const GradientKernels<T>* table<GradientKernels<T>> = &gradient_table<typename VectorOf<T>::X>;
template <class T>
inline constexpr const ActivationKernels<T>* table<ActivationKernels<T>> = &activation_table<typename VectorOf<T>::X>;
template <>
inline constexpr const Int8Kernels* table<Int8Kernels> = &int8_table<Vf, Vi>;
