// A student in a C++ program, with OpenVINO:
//
//   build/classify bundles/quickstart photo.jpg another.png
//   build/classify --precision int8 --json bundles/quickstart photo.jpg
//
// The first argument is a bundle. --json prints a line an image. Take decode and preprocess along into a program of
// your own: they give the pixels that the student was measured with. It checks no hashes: `vl2v-deploy verify` does.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <openvino/openvino.hpp>

#include "decode.h"
#include "preprocess.h"

using nlohmann::json;

namespace {

constexpr int kFormat = 2;               // of a bundle
constexpr std::size_t kDraftMargin = 2;  // a JPEG is decoded at a fraction of its size, to no less than so many S
const std::string kWhole = "exif-transpose, alpha on white, RGB, squash to square bilinear antialias, uint8";
const std::string kDraft = "jpeg dct-scaled to at least 2 S, " + kWhole;

struct Arguments {
  std::string precision = "fp32", bundle;
  bool as_json = false;
  std::vector<std::string> images;
};

Arguments arguments_of(int count, char** words) {
  Arguments found;
  std::vector<std::string> rest;
  for (int index = 1; index < count; ++index) {
    const std::string word = words[index];
    if (word == "--json") {
      found.as_json = true;
    } else if (word == "--precision" && index + 1 < count) {
      found.precision = words[++index];
    } else {
      rest.push_back(word);
    }
  }
  if (rest.size() < 2 || rest[0].rfind("--", 0) == 0) {
    throw std::runtime_error("usage: classify [--precision fp32|fp16|int8] [--json] BUNDLE IMAGE...");
  }
  found.bundle = rest[0];
  found.images.assign(rest.begin() + 1, rest.end());
  return found;
}

// What a bundle's manifest.json says that a program must know.
struct Facts {
  std::vector<std::string> classes;
  std::size_t size_px;
  std::optional<std::size_t> least_px;  // see decoded()
  double abstain_below;                 // 0 = it never does
  std::string model;
};

Facts facts_of(const std::string& bundle, const std::string& precision) {
  std::ifstream file(bundle + "/manifest.json");
  if (!file) throw std::runtime_error(bundle + ": holds no manifest.json: not a bundle");
  const json manifest = json::parse(file);
  if (manifest.at("format") != kFormat) {
    throw std::runtime_error(bundle + ": format " + manifest.at("format").dump() + ", this program reads " +
                             std::to_string(kFormat) + "; export again");
  }
  const json& files = manifest.at("precisions");
  if (!files.contains(precision)) {
    std::string has;
    for (const auto& [name, facts] : files.items()) has += (has.empty() ? "" : ", ") + name;
    throw std::runtime_error(bundle + ": holds no " + precision + " file; it has: " + has);
  }
  const std::string rule = manifest.at("preprocessing");
  if (rule != kDraft && rule != kWhole) {
    throw std::runtime_error(bundle + ": asks for a preprocessing that this program does not have: " + rule);
  }
  const std::size_t size_px = manifest.at("image_size_px");
  const json& threshold = manifest.at("confidence").at("abstain_below");
  return {manifest.at("classes"), size_px,
          rule == kDraft ? std::optional(kDraftMargin * size_px) : std::nullopt,
          threshold.is_null() ? 0.0 : threshold.get<double>(),
          bundle + "/" + files.at(precision).at("file").get<std::string>()};
}

struct Answer {
  std::string label;
  double probability;
  bool abstained;
};

// Logits are calibrated inside the graph, so that their softmax is the confidence.
Answer answer_of(const float* logits, const Facts& facts) {
  const std::size_t best =
      static_cast<std::size_t>(std::max_element(logits, logits + facts.classes.size()) - logits);
  double sum = 0;
  for (std::size_t index = 0; index < facts.classes.size(); ++index) {
    sum += std::exp(static_cast<double>(logits[index]) - static_cast<double>(logits[best]));
  }
  return {facts.classes[best], 1 / sum, !(1 / sum >= facts.abstain_below)};
}

Answer classified(ov::InferRequest& request, const Facts& facts, const std::string& file) {
  try {
    std::vector<std::uint8_t> pixels = squashed(decoded(file, facts.least_px), facts.size_px);
    request.set_tensor("images", ov::Tensor(ov::element::u8, {1, facts.size_px, facts.size_px, 3}, pixels.data()));
    request.infer();
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(file + ": cannot be used: " + error.what());
  }
  return answer_of(request.get_tensor("logits").data<float>(), facts);
}

void print(const Answer& answer, const std::string& file, bool as_json) {
  if (as_json) {
    std::cout << json{{"image", file},
                      {"label", answer.label},
                      {"probability", answer.probability},
                      {"abstained", answer.abstained}}
              << "\n";
    return;
  }
  char percent[16];
  std::snprintf(percent, sizeof percent, "%.1f %%", 100 * answer.probability);
  std::cout << file << ": " << (answer.abstained ? "not sure; closest is " : "") << answer.label << ", " << percent
            << "\n";
}

}  // namespace

int main(int count, char** words) try {
  const Arguments given = arguments_of(count, words);
  const Facts facts = facts_of(given.bundle, given.precision);
  ov::Core core;
  // fp32 also where the processor has bfloat16, in which OpenVINO would compute otherwise
  ov::CompiledModel model = core.compile_model(facts.model, "CPU", ov::hint::inference_precision(ov::element::f32),
                                               ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
  ov::InferRequest request = model.create_infer_request();
  for (const std::string& image : given.images) print(classified(request, facts, image), image, given.as_json);
  return 0;
} catch (const std::exception& error) {
  std::string line = error.what();
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::cerr << "Error: " << line << "\n";
  return 1;
}
