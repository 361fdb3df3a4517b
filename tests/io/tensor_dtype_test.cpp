#include "heed/io/tensor_dtype.hpp"

#include <set>

#include <gtest/gtest.h>

namespace {

using heed::TensorDtype;

TEST(TensorDtype, EveryTypeHasItsBytesAndItsOwnNames) {
  std::set<std::string_view> names;
  for (const auto& row : heed::detail::dtype_rows) {
    EXPECT_EQ(heed::bytes_of(row.dtype), row.bytes);
    EXPECT_EQ(heed::detail::dtype_named(heed::name_of(row.dtype), &heed::detail::DtypeRow::safetensors), row.dtype);
    if (!row.npy.empty()) {
      EXPECT_EQ(heed::detail::dtype_named(row.npy, &heed::detail::DtypeRow::npy), row.dtype);
    }
    names.insert(row.safetensors);
  }
  EXPECT_EQ(names.size(), heed::detail::dtype_rows.size());
}

TEST(TensorDtype, EveryScalarHasADtypeOfItsOwnSize) {
  EXPECT_EQ(heed::bytes_of(heed::tensor_dtype_of<double>()), sizeof(double));
  EXPECT_EQ(heed::bytes_of(heed::tensor_dtype_of<float>()), sizeof(float));
  EXPECT_EQ(heed::bytes_of(heed::tensor_dtype_of<Eigen::half>()), sizeof(Eigen::half));
  EXPECT_EQ(heed::bytes_of(heed::tensor_dtype_of<Eigen::bfloat16>()), sizeof(Eigen::bfloat16));
  EXPECT_EQ(heed::bytes_of(heed::tensor_dtype_of<std::int64_t>()), 8U);
  EXPECT_EQ(heed::bytes_of(heed::tensor_dtype_of<std::int32_t>()), 4U);
  EXPECT_EQ(heed::bytes_of(heed::tensor_dtype_of<std::uint8_t>()), 1U);
  EXPECT_EQ(heed::bytes_of(heed::tensor_dtype_of<bool>()), 1U);
}

TEST(TensorDtype, UnknownAndEmptyNamesAreNoDtype) {
  EXPECT_EQ(heed::detail::dtype_named("F8_E4M3", &heed::detail::DtypeRow::safetensors), std::nullopt);
  EXPECT_EQ(heed::detail::dtype_named("", &heed::detail::DtypeRow::npy), std::nullopt);  // bfloat16's empty name
}

}  // namespace
