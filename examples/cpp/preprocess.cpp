#include "preprocess.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int kBits = 22;  // of a weight, so that 255 * the sum of all weights fits into an int32
constexpr std::int32_t kHalf = 1 << (kBits - 1);

// One result is the mean of the inputs from `start` on, by these weights.
struct Taps {
  std::size_t start;
  std::vector<std::int32_t> weights;
};

// The triangles of inputs of `to` results; wider than the step where the image shrinks, which is the antialiasing.
std::vector<Taps> taps_of(std::size_t from, std::size_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double radius = std::max(scale, 1.0);
  std::vector<Taps> results;
  for (std::size_t index = 0; index < to; ++index) {
    const double centre = (static_cast<double>(index) + 0.5) * scale;
    const auto start = static_cast<std::size_t>(std::max(0.0, std::trunc(centre - radius + 0.5)));
    const auto end = std::min(from, static_cast<std::size_t>(centre + radius + 0.5));
    std::vector<double> shares;
    double sum = 0;
    for (std::size_t at = start; at < end; ++at) {
      shares.push_back(std::max(0.0, 1 - std::abs((static_cast<double>(at) - centre + 0.5) * (1 / radius))));
      sum += shares.back();
    }
    Taps taps{start, {}};
    for (const double share : shares) {
      taps.weights.push_back(static_cast<std::int32_t>(0.5 + share / sum * (1 << kBits)));
    }
    results.push_back(std::move(taps));
  }
  return results;
}

// Rounded weights may add up to a little more than one.
std::uint8_t clipped(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kBits, 0, 255)); }

Image across(const Image& image, const std::vector<Taps>& taps) {
  Image result{taps.size(), image.height, {}};
  result.rgb.reserve(3 * taps.size() * image.height);
  for (std::size_t row = 0; row < image.height; ++row) {
    for (const Taps& tap : taps) {
      for (std::size_t channel = 0; channel < 3; ++channel) {
        std::int32_t sum = kHalf;
        std::size_t at = 3 * (row * image.width + tap.start) + channel;
        for (const std::int32_t weight : tap.weights) {
          sum += image.rgb[at] * weight;
          at += 3;
        }
        result.rgb.push_back(clipped(sum));
      }
    }
  }
  return result;
}

Image down(const Image& image, const std::vector<Taps>& taps) {
  const std::size_t stride = 3 * image.width;
  Image result{image.width, taps.size(), {}};
  result.rgb.reserve(stride * taps.size());
  for (const Taps& tap : taps) {
    for (std::size_t column = 0; column < stride; ++column) {
      std::int32_t sum = kHalf;
      std::size_t at = tap.start * stride + column;
      for (const std::int32_t weight : tap.weights) {
        sum += image.rgb[at] * weight;
        at += stride;
      }
      result.rgb.push_back(clipped(sum));
    }
  }
  return result;
}

}  // namespace

std::vector<std::uint8_t> squashed(const Image& image, std::size_t size_px) {
  const std::vector<Taps> columns = taps_of(image.width, size_px), rows = taps_of(image.height, size_px);
  const auto excess = [size_px](std::size_t side) {
    return static_cast<std::ptrdiff_t>(side) - static_cast<std::ptrdiff_t>(size_px);
  };
  // As Pillow does from 13 on; earlier ones always go across first, one level apart here and there.
  const bool down_first = excess(image.height) > 0 && excess(image.height) > 2 * excess(image.width);
  return (down_first ? across(down(image, rows), columns) : down(across(image, columns), rows)).rgb;
}
