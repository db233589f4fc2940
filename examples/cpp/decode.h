// JPEG, PNG and WebP files to pixels: upright, opaque and RGB.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "preprocess.h"

// The image in a file, turned as its EXIF says, transparency laid on white, without its colour profile.
//
// least_px: a JPEG is decoded at 1/2, 1/4 or 1/8 while both sides stay at least so long; none = always whole
//
// Throws std::runtime_error for what cannot be used.
Image decoded(const std::string& file, std::optional<std::size_t> least_px);
