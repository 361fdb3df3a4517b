// Every field of a file says something: bytes made by hand for every dtype, and files of which one field at a time is
// wrong.
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/io/npy.hpp"
#include "heed/io/safetensors.hpp"
#include "heed/io/tree_file.hpp"
#include "io/files.hpp"
#include "support/matrices.hpp"

namespace heed::test::file_fields {
namespace {

using heed_test::bytes_of_file;
using heed_test::TemporaryFolder;

/// Three elements of a dtype as the formats' own pages lay them out, and what they are.
struct Stored {
  TensorDtype dtype;
  const char* npy;  // "" where npy has none
  const char* safetensors;
  std::string bytes;
  std::vector<double> values;
};

const std::vector<Stored>& stored() {
  using namespace std::string_literals;
  static const std::vector<Stored> all{
      {TensorDtype::f64,
       "<f8",
       "F64",
       "\0\0\0\0\0\0\xf8\x3f\0\0\0\0\0\0\0\xc0\x9a\x99\x99\x99\x99\x99\xb9\x3f"s,
       {1.5, -2, 0.1}},
      {TensorDtype::f32, "<f4", "F32", "\0\0\xc0\x3f\0\0\0\xc0\0\0\x80\x7f"s, {1.5, -2, HUGE_VAL}},
      {TensorDtype::f16, "<f2", "F16", "\0\x3e\0\xc0\xff\x7b"s, {1.5, -2, 65504}},
      {TensorDtype::bf16, "", "BF16", "\xc0\x3f\0\xc0\x80\x7f"s, {1.5, -2, HUGE_VAL}},
      {TensorDtype::i64,
       "<i8",
       "I64",
       "\xfd\xff\xff\xff\xff\xff\xff\xff\x2c\1\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\x1f\0"s,
       {-3, 300, 9007199254740991}},
      {TensorDtype::i32, "<i4", "I32", "\xfd\xff\xff\xff\x2c\1\0\0\1\0\0\1"s, {-3, 300, 16777217}},
      {TensorDtype::u8, "|u1", "U8", "\xc8\0\7"s, {200, 0, 7}},
      {TensorDtype::boolean, "|b1", "BOOL", "\1\0\1"s, {1, 0, 1}},
  };
  return all;
}

std::string npy_file(const std::string& descr, const std::string& shape, const std::string& bytes) {
  std::string text = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }";
  text.append((64 - (10 + text.size() + 1) % 64) % 64, ' ');
  text += '\n';
  std::string file = "\x93NUMPY";
  file += {1, 0, static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8)};
  return file + text + bytes;
}

std::string safetensors_file(std::string header, const std::string& bytes) {
  header.append((8 - header.size() % 8) % 8, ' ');
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> 8 * i & 0xff);
  return file + header + bytes;
}

void expect_stored(const Tensor& tensor, const Stored& want) {
  EXPECT_EQ(tensor.dtype(), want.dtype);
  EXPECT_EQ(tensor.shape(), std::vector<Index>{3});
  EXPECT_EQ(tensor.as<double>(), want.values);
}

TEST(FileFields, EveryDtypeIsReadAndWrittenAsTheFormatsLayItOut) {
  const TemporaryFolder folder;
  for (const Stored& one : stored()) {
    SCOPED_TRACE(one.safetensors);
    const std::string header = std::string("{\"t\":{\"dtype\":\"") + one.safetensors +
                               "\",\"shape\":[3],\"data_offsets\":[0," + std::to_string(one.bytes.size()) + "]}}";
    const std::string file = safetensors_file(header, one.bytes);
    const Tensor tensor = SafetensorsFile(folder.file("a.safetensors", file)).load("t");
    expect_stored(tensor, one);
    write_safetensors(folder.path("b.safetensors"), {{"t", tensor}});
    EXPECT_EQ(bytes_of_file(folder.path("b.safetensors")), file);
    if (std::string(one.npy).empty()) continue;
    const std::string npy = npy_file(one.npy, "(3,)", one.bytes);
    expect_stored(read_npy(folder.file("a.npy", npy)), one);
    write_npy(folder.path("b.npy"), tensor);
    EXPECT_EQ(bytes_of_file(folder.path("b.npy")), npy);
  }
}

// Element (i, j, k) is 100 i + 10 j + k; the first index varies fastest.
TEST(FileFields, ThreeAxesInFortranOrderAreTurned) {
  const TemporaryFolder folder;
  std::string bytes, file = npy_file("|u1", "(2, 3, 2)", "");
  for (int k = 0; k < 2; ++k) {
    for (int j = 0; j < 3; ++j) {
      for (int i = 0; i < 2; ++i) bytes += static_cast<char>(100 * i + 10 * j + k);
    }
  }
  file.replace(file.find("False,"), 6, "True, ");
  const Tensor tensor = read_npy(folder.file("f.npy", file + bytes));
  ASSERT_EQ(tensor.shape(), (std::vector<Index>{2, 3, 2}));
  EXPECT_EQ(tensor.integers(), (std::vector<Index>{0, 1, 10, 11, 20, 21, 100, 101, 110, 111, 120, 121}));
  write_npy(folder.path("g.npy"), tensor, {.fortran_order = true});
  const std::string written = bytes_of_file(folder.path("g.npy"));
  EXPECT_EQ(written.substr(written.size() - 12), bytes);
}

/// Calls check(text of the change, bytes) for every byte of [0, end) replaced by each of a few others.
template <class Check>
void with_each_byte_changed(const std::string& good, std::size_t end, const Check& check) {
  for (std::size_t at = 0; at < end; ++at) {
    for (const char other : {'\0', ' ', '1', '"', '\xff', static_cast<char>(good[at] ^ 1)}) {
      if (other == good[at]) continue;
      std::string bytes = good;
      bytes[at] = other;
      check("byte " + std::to_string(at) + " is " + std::to_string(static_cast<unsigned char>(other)), bytes);
    }
  }
}

// A changed byte is refused, or says another thing that the data bear out: never less or more of them.
TEST(FileFields, NoByteOfANpyHeaderIsIdle) {
  const TemporaryFolder folder;
  const std::string data = "\1\2\3\4\5\6\7\1\2\3\4\5";
  const std::string good = npy_file("<i4", "(3, 1)", data);
  const std::size_t end = good.find('}') + 1;
  int read = 0;
  with_each_byte_changed(good, end, [&](const std::string& change, const std::string& bytes) {
    SCOPED_TRACE(change);
    try {
      const Tensor tensor = read_npy(folder.file("changed.npy", bytes));
      ++read;
      ASSERT_EQ(tensor.bytes().size(), data.size());
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensor.bytes().data()), data.size()), data);
      EXPECT_TRUE(tensor.dtype() == TensorDtype::i32 || tensor.dtype() == TensorDtype::f32);
      EXPECT_EQ(tensor.size(), 3);
    } catch (const FormatError&) {
    }
  });
  EXPECT_LT(read, 10) << "spaces in the shape, and quotes of either kind";
}

TEST(FileFields, NoByteOfASafetensorsHeaderIsIdle) {
  const TemporaryFolder folder;
  const std::string good =
      safetensors_file(R"({"__metadata__":{"key":"text"},"a":{"dtype":"I32","shape":[1,3],"data_offsets":[0,12]},)"
                       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[12,16]}})",
                       "\1\2\3\4\5\6\7\1\2\3\4\5\x11\x12\x13\x14");
  const std::size_t end = good.rfind('}') + 1;
  int changed = 0, same = 0;
  with_each_byte_changed(good, end, [&](const std::string& change, const std::string& bytes) {
    SCOPED_TRACE(change);
    try {
      const SafetensorsFile file(folder.file("changed.safetensors", bytes));
      const TensorMap all = file.load_all();
      std::size_t n_bytes = 0;
      for (const auto& [name, tensor] : all) n_bytes += tensor.bytes().size();
      EXPECT_EQ(n_bytes, 16u);
      const bool as_before =
          file.metadata() == TextMap{{"key", "text"}} && all.count("a") == 1 && all.count("b") == 1 &&
          all.at("a").dtype() == TensorDtype::i32 && all.at("b").dtype() == TensorDtype::u8 &&
          all.at("a").shape() == std::vector<Index>{1, 3} && all.at("b").shape() == std::vector<Index>{4};
      ++(as_before ? same : changed);
    } catch (const FormatError&) {
    }
  });
  EXPECT_EQ(same, 0) << "a byte that may be anything";
  EXPECT_GT(changed, 15) << "names and texts may be others";
}

/// What a tree file holds, to be spoiled.
struct TreeFields {
  TensorMap tensors;
  TextMap metadata{{"bias_rule", "key_medians"}};
  TreeFields() {
    const Matrix<float> planes = random_matrix<float>(3, 4, 1);
    tensors.emplace("planes", Tensor::of(planes));
    tensors.emplace("biases", Tensor::of<float>({3}, std::vector<float>{0.5f, -0.25f, 2.0f}));
    tensors.emplace("lift_weights", Tensor::of<float>({3}, std::vector<float>{1.0f, -3.0f, 0.125f}));
    tensors.emplace("lift_radius", Tensor::of<float>({}, std::vector<float>{2.5f}));
  }
};

/// "loaded", or the kind of error.
std::string loading(const TreeFields& fields) {
  const TemporaryFolder folder;
  const std::string path = folder.path("tree.safetensors");
  write_safetensors(path, fields.tensors, fields.metadata);
  try {
    load_tree<float>(path);
    return "loaded";
  } catch (const FormatError& error) {
    return std::string(error.what()).starts_with("heed: " + path + ": ") ? "FormatError" : error.what();
  } catch (const ShapeError&) {
    return "ShapeError";
  } catch (const OptionError&) {
    return "OptionError";
  }
}

TEST(FileFields, ATreeFileWithOneWrongFieldIsRefused) {
  EXPECT_EQ(loading({}), "loaded");
  const auto refused = [](const char* what, const char* error, const auto& spoil) {
    TreeFields fields;
    spoil(fields);
    EXPECT_EQ(loading(fields), error) << what;
  };
  const auto replace = [](TreeFields& f, const std::string& name, Tensor tensor) {
    f.tensors.erase(name);
    f.tensors.emplace(name, std::move(tensor));
  };
  const std::vector<float> three{1, 2, 3};
  refused("no planes", "FormatError", [](TreeFields& f) { f.tensors.erase("planes"); });
  refused("no biases", "FormatError", [](TreeFields& f) { f.tensors.erase("biases"); });
  refused("no radius", "FormatError", [](TreeFields& f) { f.tensors.erase("lift_radius"); });
  refused("a radius without weights", "FormatError", [](TreeFields& f) { f.tensors.erase("lift_weights"); });
  refused("planes of one axis", "FormatError",
          [&](TreeFields& f) { replace(f, "planes", Tensor::of<float>({3}, three)); });
  refused("planes of three axes", "FormatError", [&](TreeFields& f) {
    replace(f, "planes", Tensor({1, 3, 4}, TensorDtype::f32));
  });
  refused("two planes", "ShapeError", [&](TreeFields& f) { replace(f, "planes", Tensor({2, 4}, TensorDtype::f32)); });
  refused("planes of no width", "ShapeError", [&](TreeFields& f) {
    replace(f, "planes", Tensor({3, 0}, TensorDtype::f32));
  });
  for (const char* name : {"biases", "lift_weights"}) {
    refused(name, "ShapeError", [&](TreeFields& f) { replace(f, name, Tensor({2}, TensorDtype::f32)); });
    refused(name, "ShapeError", [&](TreeFields& f) { replace(f, name, Tensor({4}, TensorDtype::f32)); });
    refused(name, "FormatError", [&](TreeFields& f) { replace(f, name, Tensor::of<float>({1, 3}, three)); });
  }
  refused("two radii", "FormatError", [&](TreeFields& f) { replace(f, "lift_radius", Tensor({2}, TensorDtype::f32)); });
  refused("no radius in its tensor", "FormatError",
          [&](TreeFields& f) { replace(f, "lift_radius", Tensor({0}, TensorDtype::f32)); });
  refused("a negative radius", "OptionError",
          [&](TreeFields& f) { replace(f, "lift_radius", Tensor::of<float>({}, std::vector<float>{-1})); });
  for (const char* name : {"planes", "biases", "lift_weights", "lift_radius"}) {
    for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      refused(name, "OptionError", [&](TreeFields& f) {
        std::vector<float> numbers = f.tensors.at(name).as<float>();
        numbers.back() = wrong;
        replace(f, name, Tensor::of<float>(f.tensors.at(name).shape(), numbers));
      });
    }
  }
  refused("another rule", "FormatError", [](TreeFields& f) { f.metadata["bias_rule"] = "medians"; });
  refused("an empty rule", "FormatError", [](TreeFields& f) { f.metadata["bias_rule"] = ""; });
}

TEST(FileFields, EveryNumberOfATreeFileArrivesInItsPlace) {
  const TemporaryFolder folder;
  const std::string path = folder.path("tree.safetensors");
  const TreeFields fields;
  write_safetensors(path, fields.tensors, fields.metadata);
  const auto tree = load_tree<double>(path);
  EXPECT_EQ(tree.height(), 2);
  EXPECT_EQ(tree.planes(), fields.tensors.at("planes").matrix<double>());
  EXPECT_EQ(tree.biases(), Eigen::Vector3d(0.5, -0.25, 2.0));
  EXPECT_EQ(tree.bias_rule(), TreeBiases::key_medians);
  ASSERT_TRUE(tree.lift().has_value());
  EXPECT_EQ(tree.lift()->weights, Eigen::Vector3d(1.0, -3.0, 0.125));
  EXPECT_EQ(tree.lift()->radius, 2.5);
  for (const TextMap& metadata : {TextMap{{"bias_rule", "stored"}}, TextMap{}}) {
    write_safetensors(path, fields.tensors, metadata);
    EXPECT_EQ(load_tree<float>(path).bias_rule(), TreeBiases::stored);
  }
  // What save_tree writes is these fields and no others.
  write_safetensors(folder.path("by_hand.safetensors"), fields.tensors, fields.metadata);
  save_tree(path, load_tree<float>(folder.path("by_hand.safetensors")));
  EXPECT_EQ(bytes_of_file(path), bytes_of_file(folder.path("by_hand.safetensors")));
}

}  // namespace
}  // namespace heed::test::file_fields
