#include <cmath>
#include <vector>

#include <nlohmann/json.hpp>

#include "report.hpp"

namespace compare {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no word for what is not finite.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// 0 where there is no such number; see Row.
Json ratio(double value) { return value > 0 ? number(value) : Json(nullptr); }

Json numbers(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) list.push_back(number(value));
  return list;
}

Json method_json(const Row& row, const Measurement& measurement) {
  const heed::FlopCounter& flops = measurement.flops;
  Json json;
  json["name"] = row.name;
  json["description"] = row.description;
  json["family"] = name_of(row.family);
  json["flops"] = row.flops;
  json["flops_by_phase"] = {
      {"route", flops.products(heed::Phase::route)},   {"project", flops.products(heed::Phase::project)},
      {"sample", flops.products(heed::Phase::sample)}, {"scores", flops.products(heed::Phase::scores)},
      {"values", flops.products(heed::Phase::values)}, {"far_field", flops.products(heed::Phase::far_field)}};
  json["times_fewer_flops"] = ratio(row.fewer);
  json["value_flops"] = row.value_flops;
  json["sampled_rows"] = flops.sampled_rows();
  json["projected_rows"] = flops.projected_rows();
  json["exponentials"] = row.exponentials;
  if (row.bytes > 0) json["bytes_a_query"] = row.bytes;
  if (row.reported_p90 > 0) {
    std::vector<double> reported;
    for (const Attempt::Decoding& of : measurement.decoding) reported.push_back(of.reported);
    json["reported_error"] = numbers(reported);
  }
  json["real_tokens"] = flops.real_tokens();
  json["padded_tokens"] = flops.padded_tokens();
  json["median_seconds"] = row.seconds;
  json["seconds"] = measurement.seconds;
  json["times_faster"] = ratio(row.faster);
  json["error"] = {{"p50", number(row.error_p50)},
                   {"p90", number(row.error_p90)},
                   {"max", number(row.error_max)},
                   {"by_head", numbers(measurement.errors)}};
  return json;
}

}  // namespace

std::string json_text(const Comparison& comparison) {
  const Inputs& inputs = *comparison.inputs;
  Json json;
  json["generated"] = inputs.generated;
  if (inputs.generated) json["warning"] = generated_warning;
  json["data"] = inputs.source;
  json["notes"] = inputs.notes;
  std::vector<Index> heads;
  for (const Head& head : inputs.heads) heads.push_back(head.number);
  json["heads"] = heads;
  json["n_q"] = inputs.n_q();
  json["n_k"] = inputs.n_k();
  json["d"] = inputs.d();
  json["d_v"] = inputs.d_v();
  json["causal"] = name_of(inputs.options.mask.causal);
  json["scale"] = inputs.scale();
  json["window"] = comparison.settings->window;
  json["fraction"] = comparison.settings->fraction;
  json["seed"] = comparison.settings->seed;
  json["rounds"] = comparison.rounds;
  const common::Machine& machine = comparison.machine;
  json["machine"] = {{"cpu", machine.cpu},
                     {"threads", machine.threads},
                     {"kernels", machine.kernels},
                     {"compiler", machine.compiler},
                     {"flags", machine.flags}};
  json["oracle"] = "exact attention in double";
  json["flops_are"] = "products of kept pairs, 2 per multiply-add, all heads";
  json["errors_are"] = "|out - oracle| / |oracle| of a head's output, Frobenius norm; null: the output is not finite";
  json["methods"] = Json::array();
  for (std::size_t m = 0; m < comparison.rows.size(); ++m) {
    json["methods"].push_back(method_json(comparison.rows[m], (*comparison.measurements)[m]));
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace compare
