// Decoded pixels to what the student takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

struct Image {
  std::size_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  // (height, width, 3)
};

// The whole image squashed to a square as Pillow's BILINEAR does it, integer for integer; (S, S, 3).
std::vector<std::uint8_t> squashed(const Image& image, std::size_t size_px);
