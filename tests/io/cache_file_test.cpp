#include "heed/io/cache_file.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>

#include <gtest/gtest.h>

#include "heed/approx/attend_within.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/io/safetensors.hpp"
#include "io/files.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

TEST(CacheFile, AnswersAreTheSameBits) {
  const heed_test::TemporaryFolder folder;
  const Matrix<float> q = random_matrix<float>(1, 36, 1);
  for (const Index n : {0, 3, 90, 100, 700}) {
    SCOPED_TRACE(n);
    KeyValueCache<Int8> cache(9, 5, 2);
    cache.append(random_matrix<float>(n, 18, 2), random_matrix<float>(n, 10, 3));
    cache.truncate(n - n / 5);
    save_cache(folder.path("cache.safetensors"), cache);
    KeyValueCache<Int8> read = load_cache(folder.path("cache.safetensors"));
    EXPECT_EQ(read.size(), cache.size());
    EXPECT_SAME_BITS(attend(q, read).out, attend(q, cache).out);
    for (KeyValueCache<Int8>* one : {&cache, &read})
      one->append(random_matrix<float>(200, 18, 4), random_matrix<float>(200, 10, 5));
    EXPECT_SAME_BITS(attend(q, read).out, attend(q, cache).out);
  }
}

TEST(CacheFile, LargeNumbersComeBack) {
  const heed_test::TemporaryFolder folder;
  KeyValueCache<Int8> cache(9);
  cache.append((random_matrix<float>(300, 9, 2) * 1e12f).eval(), (random_matrix<float>(300, 9, 3) * 1e30f).eval());
  save_cache(folder.path("cache.safetensors"), cache);
  KeyValueCache<Int8> read = load_cache(folder.path("cache.safetensors"));
  const Matrix<float> q = random_matrix<float>(1, 9, 1) * 1e-12f;
  EXPECT_SAME_BITS(attend(q, read).out, attend(q, cache).out);
  EXPECT_SAME_BITS(attend_within(0.05, q, read).out, attend_within(0.05, q, cache).out);
}

TEST(CacheFile, HoldsNothingOfTokensThatWereCut) {
  const heed_test::TemporaryFolder folder;
  const Matrix<float> k = random_matrix<float>(400, 9, 2), v = random_matrix<float>(400, 5, 3);
  const auto file_of = [&](const KeyValueCache<Int8>& cache) {
    save_cache(folder.path("cache.safetensors"), cache);
    return heed_test::bytes_of_file(folder.path("cache.safetensors"));
  };
  for (const Index n : {2, 50, 100, 230}) {  // the first tokens alone, more in float, a page, several pages
    SCOPED_TRACE(n);
    KeyValueCache<Int8> plain(9, 5), cut(9, 5), emptied(9, 5);
    for (KeyValueCache<Int8>* one : {&plain, &cut}) one->append(k.topRows(n), v.topRows(n));
    const Index more = n < 4 ? 1 : 20;  // so few that none goes to a page
    cut.append(k.bottomRows(more), v.bottomRows(more));
    cut.truncate(n);
    EXPECT_EQ(file_of(cut), file_of(plain));
    emptied.append(k, v);
    emptied.clear();
    emptied.append(k.topRows(n), v.topRows(n));
    EXPECT_EQ(file_of(emptied), file_of(plain));
  }
}

TEST(CacheFile, WithinATolerance) {
  const heed_test::TemporaryFolder folder;
  KeyValueCache<Int8> cache(64);
  const Matrix<float> k = random_matrix<float>(3000, 64, 2);
  cache.append(k, (k + random_matrix<float>(3000, 64, 3)).eval());
  save_cache(folder.path("cache.safetensors"), cache);
  KeyValueCache<Int8> read = load_cache(folder.path("cache.safetensors"));
  for (Index i = 0; i < 4; ++i) {  // 3 probes and a scan, whose regression asks what the cache knows of all its values
    const Matrix<float> q = random_matrix<float>(1, 64, 10 + static_cast<std::uint64_t>(i)) * 0.1f;
    const auto got = attend_within(0.05, q, read), want = attend_within(0.05, q, cache);
    EXPECT_SAME_BITS(got.out, want.out);
    EXPECT_EQ(got.reported(0, 0), want.reported(0, 0));
    EXPECT_EQ(got.path(0, 0), i < 3 ? TolerancePath::probe : TolerancePath::scan);
  }
}

TEST(CacheFile, OtherFilesAreRefused) {
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("cache.safetensors");
  KeyValueCache<Int8> cache(9, 5, 2);
  cache.append(random_matrix<float>(300, 18, 2), random_matrix<float>(300, 10, 3));
  save_cache(path, cache);
  const TensorMap whole = SafetensorsFile(path).load_all();
  const TextMap sizes = SafetensorsFile(path).metadata();
  const auto expect_refused = [&](const auto& change) {
    TensorMap tensors = whole;
    TextMap metadata = sizes;
    change(tensors, metadata);
    write_safetensors(path, tensors, metadata);
    EXPECT_THROW(load_cache(path), FormatError);
    write_safetensors(path, whole, sizes);
  };
  expect_refused([](TensorMap& tensors, TextMap&) { tensors.erase("head.1.far"); });
  expect_refused([](TensorMap& tensors, TextMap&) { tensors.erase("head.0.near"); });
  expect_refused([](TensorMap& tensors, TextMap&) { tensors.erase("head.1.near"); });
  expect_refused([](TensorMap& tensors, TextMap&) { tensors.at("head.0.floats") = tensors.at("head.0.far"); });
  for (const char* name : {"head.0.far", "head.1.mean_keys", "head.0.statistics", "head.1.floats", "head.0.near"}) {
    expect_refused([&](TensorMap& tensors, TextMap&) {
      const std::span<std::byte> bytes = tensors.at(name).bytes();
      std::fill(bytes.begin(), bytes.end(), std::byte{255});  // NaN
    });
  }
  for (const char* key : {"format", "version", "d", "d_v", "n_kv_heads", "size", "n_pages"}) {
    for (const char* value : {"", "-1", "x", "99999999999999999999", "2000000"}) {
      expect_refused([&](TensorMap&, TextMap& metadata) { metadata[key] = value; });
    }
  }
  EXPECT_NO_THROW(load_cache(path));
  EXPECT_THROW(load_cache(folder.path("none")), FormatError);
}

}  // namespace
}  // namespace heed::test
