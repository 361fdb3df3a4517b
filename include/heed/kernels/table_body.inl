// The tables of this instance; included last inside each instance's target region.

template <class X>
inline constexpr TileKernels<typename X::Scalar> table = {
    X::lanes,       X::vectors,     X::rows,   &scores<X>,  &advance<X>,    &weigh<X>,   &values<X>,    &adjust<X>,
    &lane_masks<X>, &all_masked<X>, &bound<X>, &exclude<X>, &all_finite<X>, &row_top<X>, &row_weigh<X>,
};

template <class X, class S>
inline constexpr StorageKernels<typename X::Scalar, S> storage_table = {
    &transpose<X, S>,  &gather<X, S>,   &pack_values<X, S>, &row_scores<X, S>,
    &row_values<X, S>, &add_rows<X, S>, writer<X, S>(),
};

template <class X, class S>
inline constexpr RouteKernels<typename X::Scalar, S> route_table = {&route<X, S>, &project<X, S>};
