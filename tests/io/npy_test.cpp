#include "heed/io/npy.hpp"

#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/files.hpp"

namespace {

using heed::Index;
using heed::Tensor;
using heed::TensorDtype;
using heed_test::bytes_of_file;
using heed_test::complains;
using heed_test::error_of;
using heed_test::TemporaryFolder;

// A .npy file made by hand: nothing of the writer is used.
std::string npy_bytes(const std::string& dict, const std::string& data, int major = 1) {
  std::string text = dict;
  const std::size_t before = major == 1 ? 10 : 12;
  text.append((64 - (before + text.size() + 1) % 64) % 64, ' ');
  text += '\n';
  std::string bytes = "\x93NUMPY" + std::string(1, static_cast<char>(major)) + std::string(1, '\0');
  bytes += static_cast<char>(text.size() & 0xff);
  bytes += static_cast<char>(text.size() >> 8);
  if (major > 1) bytes += std::string(2, '\0');
  return bytes + text + data;
}

std::string read_error(const std::string& path) {
  return error_of<heed::FormatError>([&] { (void)heed::read_npy(path); });
}

const std::string two_by_three = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";

std::string floats(std::initializer_list<float> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(float)};
}

TEST(Npy, ReadsWhatNumpyWrites) {
  const TemporaryFolder folder;
  for (const int major : {1, 2, 3}) {
    const auto path = folder.file("a.npy", npy_bytes(two_by_three, floats({1, 2, 3, 4, 5, 6}), major));
    const Tensor tensor = heed::read_npy(path);
    EXPECT_EQ(tensor.dtype(), TensorDtype::f32);
    EXPECT_EQ(tensor.shape(), (std::vector<Index>{2, 3}));
    EXPECT_EQ(tensor.as<float>(), (std::vector<float>{1, 2, 3, 4, 5, 6})) << "version " << major;
  }
}

TEST(Npy, WhatIsNoRegularFileIsRefusedAndNotWaitedFor) { heed_test::expect_only_regular_files(read_error); }

TEST(Npy, FortranOrderIsTurnedIntoCOrder) {
  const TemporaryFolder folder;
  const auto path = folder.file(
      "f.npy", npy_bytes("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", floats({1, 4, 2, 5, 3, 6})));
  EXPECT_EQ(heed::read_npy(path).as<float>(), (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(Npy, KeysComeInAnyOrderAndEitherQuote) {
  const TemporaryFolder folder;
  const auto path = folder.file(
      "k.npy", npy_bytes(R"({"shape":(2,3),"fortran_order":False,"descr":"<f4"})", floats({1, 2, 3, 4, 5, 6})));
  EXPECT_EQ(heed::read_npy(path).size(), 6);
}

TEST(Npy, EveryDtypeShapeOrderAndVersionSurvivesARoundTrip) {
  const TemporaryFolder folder;
  const std::vector<std::vector<Index>> shapes = {{}, {1}, {7}, {0}, {3, 0, 2}, {5, 3}, {2, 3, 4, 5}};
  for (const auto& row : heed::detail::dtype_rows) {
    if (row.npy.empty()) continue;
    for (const auto& shape : shapes) {
      Tensor tensor(shape, row.dtype);
      for (std::size_t i = 0; i < tensor.bytes().size(); ++i) tensor.bytes()[i] = static_cast<std::byte>(i * 37 % 251);
      for (const int version : {1, 2, 3}) {
        for (const bool fortran_order : {false, true}) {
          const auto path = folder.path("r.npy");
          heed::write_npy(path, tensor, {.version = version, .fortran_order = fortran_order});
          const Tensor back = heed::read_npy(path);
          ASSERT_EQ(back.shape(), shape);
          ASSERT_EQ(back.dtype(), row.dtype);
          ASSERT_TRUE(
              std::equal(back.bytes().begin(), back.bytes().end(), tensor.bytes().begin(), tensor.bytes().end()))
              << row.npy << " version " << version << " fortran " << fortran_order;
          EXPECT_EQ(bytes_of_file(path).size() % 64, tensor.bytes().size() % 64) << "data must start at 64 bytes";
        }
      }
    }
  }
}

TEST(Npy, TheWriterMakesTheBytesNumpyMakes) {
  const TemporaryFolder folder;
  const auto path = folder.path("w.npy");
  heed::write_npy(path, Tensor::of<float>({2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(bytes_of_file(path), npy_bytes(two_by_three, floats({1, 2, 3, 4, 5, 6})));
}

TEST(Npy, FilesThatAreNoFilesAreRefused) {
  const TemporaryFolder folder;
  const auto absent = folder.path("absent.npy");
  EXPECT_TRUE(complains(read_error(absent), absent, "file cannot be opened but must be there and readable"));
  EXPECT_TRUE(complains(read_error(folder.path("")), folder.path(""), "must be"));
  const auto empty = folder.file("empty.npy", "");
  EXPECT_TRUE(complains(read_error(empty), empty, "file size is 0 bytes but must be at least 10"));
}

TEST(Npy, WrongMagicVersionAndHeaderLengthAreNamed) {
  const TemporaryFolder folder;
  const std::string good = npy_bytes(two_by_three, floats({1, 2, 3, 4, 5, 6}));
  const auto refused = [&](const std::string& bytes, const std::string& part) {
    const auto path = folder.file("bad.npy", bytes);
    EXPECT_TRUE(complains(read_error(path), path, part));
  };
  refused("PK\x03\x04 this is a zip", R"(magic is "PK\x03\x04 t" but must be "\x93NUMPY")");
  std::string bytes = good;
  bytes[6] = 4;
  refused(bytes, "version is 4.0 but must be 1.0, 2.0 or 3.0");
  bytes[6] = 1, bytes[7] = 1;
  refused(bytes, "version is 1.1 but must be 1.0, 2.0 or 3.0");
  bytes = good;
  bytes[8] = bytes[9] = '\xff';
  refused(bytes, "header length is 65535 but must be at most " + std::to_string(good.size() - 10));
  refused(good.substr(0, 30), "header length is 118 but must be at most 20");
  refused(std::string("\x93NUMPY\x02\0\x04\0\0", 11), "file size is 11 bytes but must be at least 12");
  // An absurd length is refused before anything of that size is allocated.
  refused(std::string("\x93NUMPY\x03\0\xff\xff\xff\xff{}", 14), "header length is 4294967295 but must be at most 2");
}

TEST(Npy, WrongHeadersAreNamed) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& dict, const std::string& part) {
    const auto path = folder.file("bad.npy", npy_bytes(dict, floats({1, 2, 3, 4, 5, 6})));
    EXPECT_TRUE(complains(read_error(path), path, part)) << dict;
  };
  refused("", "must be '{'");
  refused("{", "must be a key in quotes");
  refused("{'descr': '<f4'", "must be ',' or '}' after a value");
  refused("{'descr': '<f4", "must be a closing quote");
  refused("{'descr' '<f4'}", "must be ':' after a key");
  refused("{'descr': <f4}", "must be descr in quotes");
  refused("{'descr': '<f4\\n'}", "must be a string without escapes");
  refused("{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3)}", "must be fortran_order, True or False");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': [2, 3]}", "must be '(', the start of shape");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (6)}", "must be ',' in shape");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2 3)}", "must be ',' in shape");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}", "must be a size in shape, a whole number >= 0");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2.0, 3)}", "must be ',' in shape");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (02, 3)}", "must be a size in shape, a whole number >= 0");
  refused("{'descr': '<f4', 'fortran_order': False}", "header key shape is missing but must be there");
  refused("{'fortran_order': False, 'shape': (2, 3)}", "header key descr is missing but must be there");
  refused("{'descr': '<f4', 'shape': (2, 3)}", "header key fortran_order is missing but must be there");
  refused("{'descr': '<f4', 'descr': '<f4'}",
          R"(header key is "descr" but must be descr, fortran_order or shape, once each)");
  refused("{'colour': 1}", R"(header key is "colour" but must be)");
  refused(two_by_three + "x", "must be its end after '}'");
}

TEST(Npy, WrongDtypesAreNamed) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& descr, const std::string& part) {
    const auto path =
        folder.file("bad.npy", npy_bytes("{'descr': " + descr + ", 'fortran_order': False, 'shape': (2, 3), }", ""));
    EXPECT_TRUE(complains(read_error(path), path, part)) << descr;
  };
  const std::string all = "<f8, <f4, <f2, <i8, <i4, |u1, |b1";
  refused("'>f4'", "descr is \">f4\" but must be one of " + all + " (it is big-endian: write it little-endian)");
  refused("'<V2'", "descr is \"<V2\" but must be one of " + all +
                       " (npy has no bfloat16: write float32, or a .safetensors file)");
  refused("'<c8'", "descr is \"<c8\" but must be one of " + all);
  refused("'|O'", "descr is \"|O\" but must be");
  refused("[('a', '<f4')]", "descr is a list of fields but must be one of " + all);
}

TEST(Npy, AbsurdShapesAreRefusedBeforeAnythingIsAllocated) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& shape, const std::string& part) {
    const auto path =
        folder.file("bad.npy", npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }", ""));
    EXPECT_TRUE(complains(read_error(path), path, part)) << shape;
  };
  refused("(4611686018427387904, 4)", "shape is (4611686018427387904, 4) but must have a product of bytes under 2^63");
  refused("(0, 4611686018427387904, 4611686018427387904)", "but must have a product of bytes under 2^63");
  refused("(99999999999999999999,)", "a size in shape is 99999999999999999999 but must be at most 9223372036854775807");
  refused("(1099511627776,)",
          "data are 0 bytes but must be 4398046511104 for shape (1099511627776,) of F32 (truncated)");
}

TEST(Npy, TruncatedAndTrailingDataAreNamed) {
  const TemporaryFolder folder;
  const auto shorter = folder.file("short.npy", npy_bytes(two_by_three, floats({1, 2, 3, 4, 5})));
  EXPECT_TRUE(
      complains(read_error(shorter), shorter, "data are 20 bytes but must be 24 for shape (2, 3) of F32 (truncated)"));
  const auto longer = folder.file("long.npy", npy_bytes(two_by_three, floats({1, 2, 3, 4, 5, 6, 7})));
  EXPECT_TRUE(complains(read_error(longer), longer,
                        "data are 28 bytes but must be 24 for shape (2, 3) of F32 (trailing bytes)"));
}

TEST(Npy, NoPrefixOfAFileIsReadAsAFile) {
  const TemporaryFolder folder;
  const std::string good = npy_bytes(two_by_three, floats({1, 2, 3, 4, 5, 6}), 2);
  for (std::size_t length = 0; length < good.size(); ++length) {
    const auto path = folder.file("prefix.npy", good.substr(0, length));
    EXPECT_NE(read_error(path), "") << length << " bytes";
  }
}

TEST(Npy, TheWriterRefusesWhatNpyCannotSayAndLeavesTheFileAlone) {
  const TemporaryFolder folder;
  const auto path = folder.file("kept.npy", "kept");
  const std::string message =
      error_of<heed::FormatError>([&] { heed::write_npy(path, Tensor({2}, TensorDtype::bf16)); });
  EXPECT_TRUE(complains(message, path, "dtype is BF16 but must be one of"));
  EXPECT_TRUE(complains(message, path, "npy has no bfloat16"));
  EXPECT_EQ(error_of<heed::OptionError>([&] { heed::write_npy(path, Tensor({2}, TensorDtype::f32), {.version = 4}); }),
            "heed: NpyOptions::version = 4 must be 1, 2 or 3");
  const Tensor many_axes(std::vector<Index>(30000, 1), TensorDtype::u8);
  EXPECT_NE(error_of<heed::OptionError>([&] { heed::write_npy(path, many_axes); }), "");
  EXPECT_EQ(bytes_of_file(path), "kept");
  heed::write_npy(path, many_axes, {.version = 2});
  EXPECT_EQ(heed::read_npy(path).rank(), 30000);
  const auto nowhere = folder.path("no/such/folder.npy");
  EXPECT_TRUE(complains(error_of<heed::FormatError>([&] { heed::write_npy(nowhere, Tensor()); }), nowhere,
                        "file cannot be opened but must be writable"));
}

}  // namespace
