#include "heed/io/parameter_file.hpp"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "heed/layers/parameter_store.hpp"
#include "io/files.hpp"

namespace heed::test {
namespace {

using heed_test::complains;
using heed_test::error_of;

/// Two parameters with numbers in every array, an infinity and a negative zero among them.
template <class T>
ParameterStore<T> filled_store(T shift, Index rows = 3) {
  ParameterStore<T> store;
  store.add("a.w", rows, 4, {.rate = 0.1});
  store.add("none", 0, 5);
  store.add("b \"\xc3\xa9\"", 1, 2, {.decays = false});
  for (const auto& all : {store.all_values(), store.all_gradients(), store.first_moments(), store.second_moments()}) {
    for (std::size_t e = 0; e < all.size(); ++e) all[e] = std::sin(static_cast<T>(e) + (shift += T(0.37)));
  }
  store.all_values()[1] = T(-0.0);
  store.all_values()[2] = detail::minus_infinity<T>;
  return store;
}

template <class T>
bool same_bits(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}
template <class T>
bool same_training(const ParameterStore<T>& a, const ParameterStore<T>& b) {
  bool same = same_bits<T>(a.all_values(), b.all_values()) && same_bits<T>(a.first_moments(), b.first_moments()) &&
              same_bits<T>(a.second_moments(), b.second_moments()) && a.n_slices() == b.n_slices();
  for (Index s = 0; same && s < a.n_slices(); ++s)
    same = a.options(s).decays == b.options(s).decays && a.options(s).rate == b.options(s).rate;
  return same;
}

template <class T>
void check_round_trip() {
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("model.safetensors");
  const auto saved = filled_store<T>(T(0));
  const TextMap description{{"step", "12"}, {"run", "two layers, \"cosine\"\n"}, {"", ""}};
  save_parameters(path, saved, description, ParameterParts::training);
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
  EXPECT_EQ(read_description(path), description);

  auto whole = filled_store<T>(T(5));
  whole.set_options(whole.slice(0), {.decays = false, .rate = 7});
  EXPECT_EQ(load_parameters(path, whole, ParameterParts::training), description);
  EXPECT_TRUE(same_training(whole, saved));
  EXPECT_TRUE(std::all_of(whole.all_gradients().begin(), whole.all_gradients().end(), [](T g) { return g == 0; }));

  const auto before = filled_store<T>(T(5));
  auto values = before;
  load_parameters(path, values);
  EXPECT_TRUE(same_bits<T>(std::as_const(values).all_values(), saved.all_values()));
  EXPECT_TRUE(same_bits<T>(std::as_const(values).first_moments(), before.first_moments()));

  save_parameters(path, saved);  // in place of the checkpoint
  EXPECT_EQ(SafetensorsFile(path).tensors().size(), 3U);
  EXPECT_EQ(load_parameters(path, values), TextMap{});
  const std::string message = error_of<FormatError>([&] { load_parameters(path, values, ParameterParts::training); });
  EXPECT_TRUE(complains(message, path,
                        "tensor \"first_moment/a.w\" is missing but must be (3, 4) of " +
                            std::string(name_of(tensor_dtype_of<T>())) + ": a checkpoint is saved with"));
}

TEST(ParameterFile, GivesBackTheBitsThatWereSaved) {
  check_round_trip<float>();
  check_round_trip<double>();
}

TEST(ParameterFile, AForeignFileIsRefusedAndTheStoreUntouched) {
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("model.safetensors");
  auto store = filled_store<float>(0.0f);
  const auto before = store;
  const auto refused = [&](const std::string& part, ParameterParts parts = ParameterParts::training) {
    EXPECT_TRUE(complains(error_of<FormatError>([&] { load_parameters(path, store, parts); }), path, part));
    EXPECT_TRUE(same_training(store, before));
    EXPECT_TRUE(same_bits<float>(std::as_const(store).all_gradients(), before.all_gradients()));
  };
  refused("file cannot be opened");
  save_parameters(path, filled_store<double>(1.0), {}, ParameterParts::training);
  refused("tensor \"a.w\" is of \"F64\" but must be of F32");
  save_parameters(path, filled_store<float>(1.0f, 4), {}, ParameterParts::training);
  refused("tensor \"a.w\" is (4, 4) but must be (3, 4)");
  ParameterStore<float> more = filled_store<float>(1.0f);
  more.add("c", 1, 1);
  save_parameters(path, more, {}, ParameterParts::training);
  refused("tensor \"c\" is there but must not be");
  ParameterStore<float> fewer;
  fewer.add("a.w", 3, 4);
  save_parameters(path, fewer, {}, ParameterParts::training);
  refused("tensor \"none\" is missing but must be (0, 5) of F32");
  write_safetensors(path, {{"a.w", Tensor({3, 4}, TensorDtype::f32)}});
  refused("metadata heed.parameters is missing but must be 1");
  write_safetensors(path, {}, {{"heed.parameters", "2"}});
  refused("metadata heed.parameters is \"2\" but must be 1");

  save_parameters(path, before, {}, ParameterParts::training);
  TensorMap tensors = SafetensorsFile(path).load_all();
  tensors["options/a.w"] = Tensor::of<double>({2}, std::vector<double>{1, -3});
  write_safetensors(path, tensors, {{"heed.parameters", "1"}});
  refused("tensor \"options/a.w\" is (1.000000, -3.000000) but must be 0 or 1, and a finite rate >= 0");

  auto broken = before;
  const auto refused_number = [&](std::span<float> numbers, float number, const std::string& part) {
    const float good = std::exchange(numbers[5], number);
    save_parameters(path, broken, {}, ParameterParts::training);
    refused(part);
    numbers[5] = good;
  };
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const float number : {nan, infinity})
    refused_number(broken.all_values(), number, "but must have finite ones, or -inf");
  for (const float number : {nan, infinity, -infinity}) {
    refused_number(broken.first_moments(), number, "tensor \"first_moment/a.w\" has the number");
    refused_number(broken.second_moments(), number, "tensor \"second_moment/a.w\" has the number");
  }
}

TEST(ParameterFile, ATruncatedFileIsRefusedWhereverItEnds) {
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("model.safetensors");
  auto store = filled_store<float>(0.0f);
  const auto before = store;
  save_parameters(path, filled_store<float>(3.0f), {{"step", "1"}}, ParameterParts::training);
  const std::string bytes = heed_test::bytes_of_file(path);
  for (std::size_t length = 0; length < bytes.size(); length += length < 16 ? 1 : 13) {
    const std::string part = folder.file("part.safetensors", bytes.substr(0, length));
    EXPECT_TRUE(complains(error_of<FormatError>([&] { load_parameters(part, store, ParameterParts::training); }), part,
                          "but must"))
        << length;
    EXPECT_TRUE(same_training(store, before));
  }
}

TEST(ParameterFile, WhatCannotBeWrittenLeavesTheLastGoodFile) {
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("model.safetensors");
  const auto good = filled_store<float>(0.0f), next = filled_store<float>(1.0f);
  save_parameters(path, good, {{"step", "1"}}, ParameterParts::training);
  const std::string bytes = heed_test::bytes_of_file(path);
  const auto refused = [&](const std::string& at, const std::string& part) {
    const std::string message = error_of<FormatError>([&] {
      save_parameters(at, next, {{"step", "2"}}, ParameterParts::training);
    });
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(heed_test::bytes_of_file(path), bytes);
  };

  {  // a file that may not grow past its first bytes stands for a full disk
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{100, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    refused(path, "model.safetensors.new: file was not written whole but must be; is the disk full?");
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    EXPECT_FALSE(std::filesystem::exists(path + ".new"));
  }
  refused(folder.path("nowhere/model.safetensors"), "model.safetensors.new: file cannot be opened");
  refused(folder.path("."), "path is a directory but must be a regular file, or free");
  refused("/dev/full", "/dev/full: path is a device but must be a regular file, or free");
  ASSERT_EQ(mkfifo((path + ".new").c_str(), 0600), 0);
  refused(path, "model.safetensors.new: path is a pipe but must be a regular file, or free");
  std::filesystem::remove(path + ".new");

  EXPECT_THROW(save_parameters(path, next, {{"heed.step", "2"}}), OptionError);
  ParameterStore<float> twice;
  twice.add("a", 1, 1);
  twice.add("first_moment/a", 1, 1);
  EXPECT_THROW(save_parameters(path, twice, {}, ParameterParts::training), OptionError);
  EXPECT_EQ(heed_test::bytes_of_file(path), bytes);

  folder.file("model.safetensors.new", "what a killed program left");
  save_parameters(path, next, {{"step", "2"}}, ParameterParts::training);
  EXPECT_EQ(read_description(path).at("step"), "2");
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
}

}  // namespace
}  // namespace heed::test
