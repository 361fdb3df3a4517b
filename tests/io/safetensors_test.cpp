#include "heed/io/safetensors.hpp"

#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/files.hpp"
#include "support/allocations.hpp"

namespace {

using heed::Index;
using heed::SafetensorsFile;
using heed::Tensor;
using heed::TensorDtype;
using heed::TensorMap;
using heed_test::bytes_of_file;
using heed_test::complains;
using heed_test::error_of;
using heed_test::TemporaryFolder;

// A .safetensors file made by hand: nothing of the writer is used.
std::string safetensors_bytes(const std::string& header, std::size_t data_bytes) {
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> 8 * i & 0xff);
  bytes += header;
  for (std::size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i);
  return bytes;
}

std::string open_error(const std::string& path) {
  return error_of<heed::FormatError>([&] { const SafetensorsFile file(path); });
}

TEST(Safetensors, ReadsTensorsByName) {
  const TemporaryFolder folder;
  const auto path = folder.file(
      "a.safetensors",
      safetensors_bytes(R"({"__metadata__":{"causal":"true"},)"
                        R"( "b" : {"dtype":"U8","shape":[2,3],"data_offsets":[0,6]},"a":{"data_offsets":[6,8],)"
                        R"("shape":[],"dtype":"BF16"},"none":{"dtype":"F32","shape":[0,4],"data_offsets":[8,8]}}  )",
                        8));
  const SafetensorsFile file(path);
  EXPECT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.metadata().at("causal"), "true");
  EXPECT_TRUE(file.has("a"));
  EXPECT_FALSE(file.has("z"));
  EXPECT_EQ(file.tensors().at("b").shape, (std::vector<Index>{2, 3}));
  EXPECT_EQ(file.load("b").integers(), (std::vector<Index>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(file.load("a").dtype(), TensorDtype::bf16);
  EXPECT_EQ(file.load("a").size(), 1);
  EXPECT_EQ(file.load("none").size(), 0);
  EXPECT_TRUE(complains(error_of<heed::FormatError>([&] { (void)file.load("z"); }), path,
                        R"(tensor "z" is missing but must be there; found "a", "b", "none")"));
}

TEST(Safetensors, WhatIsNoRegularFileIsRefusedAndNotWaitedFor) { heed_test::expect_only_regular_files(open_error); }

TEST(Safetensors, ATensorOfAnUnknownDtypeIsListedAndItsNeighboursAreRead) {
  const TemporaryFolder folder;
  const auto path = folder.file(
      "u.safetensors",
      safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                        R"("eight bits":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[2,6]},)"
                        R"("four":{"dtype":"I4","shape":[3],"data_offsets":[6,8]},)"
                        R"("later":{"dtype":"Q17_\u00e9\n","shape":[0,4611686018427387904,8],"data_offsets":[8,9]},)"
                        R"("none":{"dtype":"","shape":[],"data_offsets":[9,9]},)"
                        R"("z":{"dtype":"I32","shape":[1],"data_offsets":[9,13]}})",
                        13));
  const SafetensorsFile file(path);
  EXPECT_EQ(file.tensors().size(), 6U);
  EXPECT_EQ(file.load("a").integers(), (std::vector<Index>{0, 1}));
  EXPECT_EQ(file.load("z").integers(), (std::vector<Index>{0x0c0b0a09}));
  EXPECT_EQ(file.tensors().at("z").dtype, TensorDtype::i32);
  EXPECT_EQ(file.tensors().at("z").dtype_name, "I32");
  EXPECT_EQ(file.tensors().at("eight bits").dtype, std::nullopt);
  EXPECT_EQ(file.tensors().at("eight bits").dtype_name, "F8_E4M3");
  EXPECT_EQ(file.tensors().at("eight bits").shape, (std::vector<Index>{2, 2}));
  EXPECT_EQ(file.tensors().at("four").begin, 6U);
  const auto refused = [&](const std::string& name, const std::string& part) {
    EXPECT_TRUE(complains(error_of<heed::FormatError>([&] { (void)file.load(name); }), path, part)) << name;
  };
  refused("eight bits",
          R"(tensor "eight bits" dtype is "F8_E4M3" but must be one of F64, F32, F16, BF16, I64, I32, U8, BOOL)");
  refused("four", R"(tensor "four" dtype is "I4" but must be one of)");
  refused("later", R"(tensor "later" dtype is "Q17_\xc3\xa9\x0a" but must be one of)");
  refused("none", R"(tensor "none" dtype is "" but must be one of)");
  EXPECT_TRUE(complains(error_of<heed::FormatError>([&] { (void)file.load_all(); }), path, R"(tensor "eight bits")"));
}

TEST(Safetensors, OffsetsOfAnUnknownDtypeAreCheckedAllTheSame) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& offsets, const std::string& part) {
    const auto path =
        folder.file("bad.safetensors", safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                                         R"("u":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[)" +
                                                             offsets + "]}}",
                                                         6));
    EXPECT_TRUE(complains(open_error(path), path, part)) << offsets;
  };
  refused("6,2", R"(tensor "u" data_offsets is (6, 2) but must be two numbers, the second not below the first)");
  refused("2", R"(tensor "u" data_offsets is (2,) but must be two numbers)");
  refused("2,4,6", R"(tensor "u" data_offsets is (2, 4, 6) but must be two numbers)");
  refused("1,6", R"(tensor "u" data_offsets is (1, 6) but must begin at 2 (overlap))");
  refused("3,6", R"(tensor "u" data_offsets is (3, 6) but must begin at 2 (hole))");
  refused("2,7", R"(tensor "u" data_offsets is (2, 7) but must end within the 6 bytes of data (truncated))");
  refused("2,9223372036854775807", "but must end within the 6 bytes of data (truncated)");
  refused("2,5", "data are 6 bytes but must be 5, the end of the last tensor (trailing bytes)");
}

TEST(Safetensors, EscapesInNamesAreResolved) {
  const TemporaryFolder folder;
  const auto path = folder.file(
      "e.safetensors",
      safetensors_bytes(
          R"({"a\"\\\/\b\f\n\r\tz\u0041\u00e9\u20AC\ud83d\ude00":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
          0));
  EXPECT_TRUE(SafetensorsFile(path).has("a\"\\/\b\f\n\r\tzA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"));
}

TEST(Safetensors, EveryDtypeShapeNameAndTextSurvivesARoundTrip) {
  const TemporaryFolder folder;
  const auto path = folder.path("r.safetensors");
  TensorMap tensors;
  const std::vector<std::vector<Index>> shapes = {{}, {1}, {7}, {0}, {3, 0, 2}, {5, 3}, {2, 3, 4, 5}};
  for (const auto& row : heed::detail::dtype_rows) {
    for (const auto& shape : shapes) {
      Tensor tensor(shape, row.dtype);
      for (std::size_t i = 0; i < tensor.bytes().size(); ++i) tensor.bytes()[i] = static_cast<std::byte>(i * 37 % 251);
      tensors.emplace(std::string(row.safetensors) + heed::detail::shape_text(shape), tensor);
    }
  }
  tensors.emplace("\"quoted\"\\\n\x01 \xc3\xa9", Tensor({1}, TensorDtype::u8));
  const heed::TextMap metadata = {{"causal", "true"}, {"line\n", "tab\t"}};
  heed::write_safetensors(path, tensors, metadata);
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata(), metadata);
  const TensorMap back = file.load_all();
  ASSERT_EQ(back.size(), tensors.size());
  const std::size_t header_bytes = bytes_of_file(path).find('}') + 1;
  ASSERT_GT(header_bytes, 0U);
  for (const auto& [name, tensor] : tensors) {
    const Tensor& read = back.at(name);
    EXPECT_EQ(read.shape(), tensor.shape());
    EXPECT_EQ(read.dtype(), tensor.dtype());
    EXPECT_TRUE(std::equal(read.bytes().begin(), read.bytes().end(), tensor.bytes().begin(), tensor.bytes().end()));
    EXPECT_EQ(file.tensors().at(name).begin % heed::bytes_of(tensor.dtype()), 0U) << name << " must be aligned";
  }
}

TEST(Safetensors, NoTensorsIsAFileToo) {
  const TemporaryFolder folder;
  heed::write_safetensors(folder.path("n.safetensors"), {});
  EXPECT_EQ(bytes_of_file(folder.path("n.safetensors")), std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  EXPECT_TRUE(SafetensorsFile(folder.path("n.safetensors")).load_all().empty());
}

TEST(Safetensors, WrongSizesAndHeaderLengthsAreNamed) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& bytes, const std::string& part) {
    const auto path = folder.file("bad.safetensors", bytes);
    EXPECT_TRUE(complains(open_error(path), path, part));
  };
  const auto absent = folder.path("absent.safetensors");
  EXPECT_TRUE(complains(open_error(absent), absent, "file cannot be opened but must be there and readable"));
  EXPECT_TRUE(complains(open_error(folder.path("")), folder.path(""), "must be"));
  refused("", "file size is 0 bytes but must be at least 8");
  refused("1234567", "file size is 7 bytes but must be at least 8");
  refused(std::string(8, '\xff') + "{}", "header length is 18446744073709551615 but must be at most 2");
  refused("\x93NUMPY\x01 and more", "header length is");
  refused(safetensors_bytes("", 0), "header at byte 0 is its end but must be '{'");
  refused(safetensors_bytes(" {}", 0), "header at byte 0 is \" {}\" but must be '{'");
}

TEST(Safetensors, WrongHeadersAreNamed) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& header, const std::string& part) {
    const auto path = folder.file("bad.safetensors", safetensors_bytes(header, 4));
    EXPECT_TRUE(complains(open_error(path), path, part)) << header;
  };
  const auto tensor = [](const std::string& fields) { return "{\"t\":{" + fields + "}}"; };
  const std::string good = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
  refused("{", "must be a key of the header, a string");
  refused("{\"a", "must be a closing quote");
  refused("{\"a\nb\":1}", "must be the end of a string without control characters");
  refused("{\"a\" 1}", "must be ':' after a key");
  refused("{\"a\":1}", "must be tensor \"a\", an object");
  refused("{\"t\":{" + good + "},}", "must be a key of the header, a string");
  refused("{\"t\":{" + good + "}", "must be ',' or '}' in the header");
  refused("{\"t\":{" + good + "}}x", "must be its end after '}'");
  refused("{\"t\":{" + good + "},\"t\":{" + good + "}}", R"(header key "t" is there twice but must be once)");
  refused("{\"\xff\":{" + good + "}}", "must be UTF-8");
  refused("{\"\xc0\xaf\":{" + good + "}}", "must be UTF-8");          // overlong
  refused("{\"\xed\xa0\x80\":{" + good + "}}", "must be UTF-8");      // a surrogate
  refused("{\"\xf4\x90\x80\x80\":{" + good + "}}", "must be UTF-8");  // past U+10FFFF
  refused("{\"\xe2\x82", "must be UTF-8");
  refused(R"({"\x":1})", R"(header has escape "\x" but must be one of JSON's)");
  refused(R"({"\u00g0":1})", "four hexadecimal digits");
  refused(R"({"\ud83d":1})", "header has half a surrogate pair but must have both");
  refused(R"({"\ude00":1})", "header has half a surrogate pair but must have both");
  refused(R"({"\ud83d\u0041":1})", "header has half a surrogate pair but must have both");
  refused(R"({"__metadata__":{"a":1}})", "must be a value of __metadata__, a string");
  refused(R"({"__metadata__":{"a":"1","a":"2"}})", R"(__metadata__ key "a" is there twice but must be once)");
  refused(R"({"__metadata__":{},"__metadata__":{}})", R"(header key "__metadata__" is there twice but must be once)");
  refused(tensor(R"("dtype":4)"), "must be dtype, a string");
  refused(tensor(R"("shape":1)"), "must be shape, an array");
  refused(tensor(R"("shape":[1.5])"), "must be ',' or ']' in shape");
  refused(tensor(R"("shape":[-1])"), "must be shape, a whole number >= 0");
  refused(tensor(R"("shape":[1,])"), "must be shape, a whole number >= 0");
  refused(tensor(R"("shape":[01])"), "must be shape, a whole number >= 0");
  refused(tensor(R"("shape":[9223372036854775808])"),
          "shape is 9223372036854775808 but must be at most 9223372036854775807");
  refused(tensor(R"("colour":"red")"),
          R"(tensor "t" key is "colour" but must be dtype, shape or data_offsets, once each)");
  refused(tensor(R"("shape":[1],"shape":[1])"), R"(tensor "t" key is "shape" but must be)");
  refused(tensor(R"("dtype":"F32","shape":[1])"), R"(tensor "t" key data_offsets is missing but must be there)");
  refused(tensor(R"("dtype":"F32","data_offsets":[0,4])"), R"(tensor "t" key shape is missing but must be there)");
  refused(tensor(R"("shape":[1],"data_offsets":[0,4])"), R"(tensor "t" key dtype is missing but must be there)");
}

TEST(Safetensors, AbsurdShapesAndWrongOffsetsAreNamed) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& shape, const std::string& offsets, const std::string& part) {
    const auto path = folder.file("bad.safetensors", safetensors_bytes("{\"t\":{\"dtype\":\"F32\",\"shape\":[" + shape +
                                                                           "],\"data_offsets\":[" + offsets + "]}}",
                                                                       4));
    EXPECT_TRUE(complains(open_error(path), path, part)) << shape << " at " << offsets;
  };
  refused("4611686018427387904,4", "0,0",
          R"(tensor "t" shape is (4611686018427387904, 4) but must have a product of bytes under 2^63)");
  refused("0,4611686018427387904,4", "0,0", "product of bytes under 2^63");
  refused("1", "0,8",
          R"(tensor "t" data_offsets is (0, 8) but must be two numbers 4 apart, the bytes of shape (1,) of F32)");
  refused("1", "4,0", "must be two numbers 4 apart");
  refused("1", "4", "must be two numbers 4 apart");
  refused("1", "0,4,8", "must be two numbers 4 apart");
  refused("2", "0,8", R"(tensor "t" data_offsets is (0, 8) but must end within the 4 bytes of data (truncated))");
  refused("1099511627776", "0,4398046511104", "but must end within the 4 bytes of data (truncated)");
  refused("0", "4,4", R"(tensor "t" data_offsets is (4, 4) but must begin at 0 (hole))");
}

TEST(Safetensors, OverlapsHolesAndTrailingBytesAreNamed) {
  const TemporaryFolder folder;
  const auto two = [](int a, int b, int c, int d) {
    const auto at = [](int begin, int end) {
      return "{\"dtype\":\"U8\",\"shape\":[" + std::to_string(end - begin) + "],\"data_offsets\":[" +
             std::to_string(begin) + "," + std::to_string(end) + "]}";
    };
    return "{\"a\":" + at(a, b) + ",\"b\":" + at(c, d) + "}";
  };
  const auto refused = [&](const std::string& header, std::size_t data, const std::string& part) {
    const auto path = folder.file("bad.safetensors", safetensors_bytes(header, data));
    EXPECT_TRUE(complains(open_error(path), path, part)) << header;
  };
  refused(two(0, 4, 2, 6), 6, R"(tensor "b" data_offsets is (2, 6) but must begin at 4 (overlap))");
  refused(two(2, 6, 0, 4), 6, R"(tensor "a" data_offsets is (2, 6) but must begin at 4 (overlap))");
  refused(two(0, 4, 5, 6), 6, R"(tensor "b" data_offsets is (5, 6) but must begin at 4 (hole))");
  refused(two(0, 4, 4, 6), 7, "data are 7 bytes but must be 6, the end of the last tensor (trailing bytes)");
  refused("{}", 1, "data are 1 bytes but must be 0");
}

TEST(Safetensors, NoPrefixOfAFileIsReadAsAFile) {
  const TemporaryFolder folder;
  const std::string good = safetensors_bytes(R"({"t":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})", 24);
  EXPECT_EQ(open_error(folder.file("whole.safetensors", good)), "");
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(open_error(folder.file("prefix.safetensors", good.substr(0, length))), "") << length << " bytes";
  }
}

TEST(Safetensors, AFileThatChangedSinceItWasOpenedIsRefused) {
  const TemporaryFolder folder;
  const auto path = folder.path("c.safetensors");
  heed::write_safetensors(path, {{"t", Tensor({4}, TensorDtype::f32)}});
  const SafetensorsFile file(path);
  heed::write_safetensors(path, {});
  EXPECT_TRUE(
      complains(error_of<heed::FormatError>([&] { (void)file.load("t"); }), path, "file size is now 16 but must be"));
}

TEST(Safetensors, TheWriterRefusesWrongNamesAndLeavesTheFileAlone) {
  const TemporaryFolder folder;
  const auto path = folder.file("kept.safetensors", "kept");
  const Tensor tensor({1}, TensorDtype::u8);
  EXPECT_TRUE(complains(error_of<heed::FormatError>([&] {
                          heed::write_safetensors(path, {{"__metadata__", tensor}});
                        }),
                        path, "reserved"));
  EXPECT_TRUE(complains(error_of<heed::FormatError>([&] {
                          heed::write_safetensors(path, {{"\xff", tensor}});
                        }),
                        path, "UTF-8"));
  EXPECT_EQ(bytes_of_file(path), "kept");
}

TEST(Safetensors, AFailedAssignmentLeavesTheFileItWas) {
  if (!heed::test::counts_allocations()) GTEST_SKIP() << "allocations cannot be made to fail here";
  const TemporaryFolder folder;
  const auto one = folder.file("a_name_that_does_not_fit_in_a_string_itself.safetensors", ""),
             two = folder.file("another_name_that_does_not_fit_in_a_string_itself.safetensors", "");
  heed::write_safetensors(one, {{"x", Tensor::of<float>({2}, std::vector<float>{1, 2})}});
  heed::write_safetensors(two,
                          {{"y", Tensor::of<float>({1}, std::vector<float>{3})}, {"z", Tensor({4}, TensorDtype::u8)}});
  SafetensorsFile file(one);
  const SafetensorsFile other(two);
  const auto unchanged = [&] {
    EXPECT_EQ(file.path(), one);
    EXPECT_EQ(file.tensors().size(), 1u);
    EXPECT_EQ(file.load("x").as<float>(), (std::vector<float>{1, 2}));
  };
  EXPECT_GE(heed::test::with_each_allocation_failing([&] { file = other; }, unchanged), 2);
  EXPECT_EQ(file.path(), two);
  EXPECT_EQ(file.load("y").as<float>(), std::vector<float>{3});
}

}  // namespace
