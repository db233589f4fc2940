#include "decode.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <utility>

#include <jpeglib.h>
#include <jerror.h>
#include <png.h>
#include <webp/decode.h>
#include <webp/demux.h>

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t kMostPixels = 100'000'000;  // more is refused before memory is taken for it
constexpr unsigned kOrientation = 0x0112;         // EXIF's tag
constexpr std::size_t kEntryBytes = 12;           // of a tag in EXIF's directory

Bytes bytes_of(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot be opened");
  return Bytes(std::istreambuf_iterator<char>(stream), {});
}

void require_size(std::size_t width, std::size_t height) {
  if (width == 0 || height == 0) throw std::runtime_error("holds no pixel");
  if (width > kMostPixels / height) throw std::runtime_error("has more than 100 million pixels");
}

// RGB of RGBA on white. Pillow divides by 255 as (x + x / 256) / 256 with seven more bits, rounding.
Image on_white(std::size_t width, std::size_t height, const std::uint8_t* rgba) {
  Image image{width, height, Bytes(3 * width * height)};
  for (std::size_t pixel = 0; pixel < width * height; ++pixel) {
    const unsigned alpha = rgba[4 * pixel + 3];
    for (std::size_t channel = 0; channel < 3; ++channel) {
      const unsigned colour = rgba[4 * pixel + channel];
      const unsigned sum = (colour * alpha + 255 * (255 - alpha) + 128) << 7;
      image.rgb[3 * pixel + channel] =
          static_cast<std::uint8_t>(alpha == 255 ? colour : ((sum >> 8) + sum) >> 15);
    }
  }
  return image;
}

// Orientation, 1 to 8, in a TIFF block; 1 where it says nothing or is damaged.
unsigned orientation_of(const std::uint8_t* tiff, std::size_t size) {
  if (size < 8) return 1;
  const bool little = tiff[0] == 'I';
  const auto number = [&](std::size_t at, std::size_t bytes) {
    std::size_t value = 0;
    for (std::size_t index = 0; index < bytes; ++index) {
      value |= std::size_t{tiff[at + index]} << 8 * (little ? index : bytes - 1 - index);
    }
    return value;
  };
  const std::size_t directory = number(4, 4);
  if (directory > size - 2) return 1;
  const std::size_t entries = number(directory, 2);
  for (std::size_t entry = 0; entry < entries; ++entry) {
    const std::size_t at = directory + 2 + kEntryBytes * entry;
    if (at + kEntryBytes > size) return 1;
    if (number(at, 2) == kOrientation) {
      const std::size_t found = number(at + 8, 2);
      return found >= 1 && found <= 8 ? static_cast<unsigned>(found) : 1;
    }
  }
  return 1;
}

Image upright(Image image, unsigned orientation) {
  if (orientation == 1) return image;
  const bool turned = orientation >= 5;
  Image result{turned ? image.height : image.width, turned ? image.width : image.height, {}};
  result.rgb.reserve(image.rgb.size());
  for (std::size_t y = 0; y < result.height; ++y) {
    for (std::size_t x = 0; x < result.width; ++x) {
      // where the pixel comes from, across and down, and whether from the far end
      const std::size_t along = turned ? y : x, below = turned ? x : y;
      const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
      const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
      const std::size_t column = from_right ? image.width - 1 - along : along;
      const std::size_t row = from_bottom ? image.height - 1 - below : below;
      const auto pixel = image.rgb.begin() + static_cast<std::ptrdiff_t>(3 * (row * image.width + column));
      result.rgb.insert(result.rgb.end(), pixel, pixel + 3);
    }
  }
  return result;
}

// What libjpeg jumps out of lives outside of the function that it jumps back to, where it would be indeterminate.
struct Jpeg {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  std::jmp_buf back;
  char message[JMSG_LENGTH_MAX] = "";
  bool truncated = false;
  unsigned orientation = 1;
  Image image;

  Jpeg() {
    info.err = jpeg_std_error(&errors);
    info.client_data = this;
    errors.error_exit = [](j_common_ptr common) {
      auto* jpeg = static_cast<Jpeg*>(common->client_data);
      common->err->format_message(common, jpeg->message);
      std::longjmp(jpeg->back, 1);
    };
    errors.emit_message = [](j_common_ptr common, int) {
      if (common->err->msg_code == JWRN_JPEG_EOF) static_cast<Jpeg*>(common->client_data)->truncated = true;
    };
  }
  ~Jpeg() { jpeg_destroy_decompress(&info); }
  Jpeg(const Jpeg&) = delete;
};

unsigned jpeg_orientation(const jpeg_decompress_struct& info) {
  constexpr std::string_view head("Exif\0\0", 6);
  for (const jpeg_marker_struct* marker = info.marker_list; marker != nullptr; marker = marker->next) {
    const bool is_exif = marker->marker == JPEG_APP0 + 1 && marker->data_length > head.size() &&
                         std::memcmp(marker->data, head.data(), head.size()) == 0;
    if (is_exif) return orientation_of(marker->data + head.size(), marker->data_length - head.size());
  }
  return 1;
}

// false: libjpeg's error is in jpeg.message
bool read_jpeg(Jpeg& jpeg, const Bytes& bytes, std::size_t least_px) {
  jpeg_decompress_struct& info = jpeg.info;
  if (setjmp(jpeg.back) != 0) return false;
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, bytes.data(), static_cast<unsigned long>(bytes.size()));
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&info, TRUE);
  jpeg.orientation = jpeg_orientation(info);
  info.out_color_space = JCS_RGB;  // libjpeg refuses to make it of CMYK
  info.scale_num = 1;
  info.scale_denom = 1;
  while (least_px != 0 && info.scale_denom < 8 &&
         std::min(info.image_width, info.image_height) >= 2 * info.scale_denom * least_px) {
    info.scale_denom *= 2;
  }
  jpeg_calc_output_dimensions(&info);
  Image& image = jpeg.image;
  image.width = info.output_width;
  image.height = info.output_height;
  if (image.width > kMostPixels / image.height) return true;  // refused by whoever called
  image.rgb.resize(3 * image.width * image.height);
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = image.rgb.data() + 3 * image.width * info.output_scanline;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  return true;
}

Image from_jpeg(const Bytes& bytes, std::optional<std::size_t> least_px) {
  Jpeg jpeg;
  if (!read_jpeg(jpeg, bytes, least_px.value_or(0))) throw std::runtime_error(jpeg.message);
  require_size(jpeg.image.width, jpeg.image.height);
  if (jpeg.truncated) throw std::runtime_error("ends too early");
  return upright(std::move(jpeg.image), jpeg.orientation);
}

// As for JPEG.
struct Png {
  png_structp png;
  png_infop info;
  const Bytes& bytes;
  std::size_t at = 0, width = 0, height = 0;
  std::string message;
  Bytes rgba;
  std::vector<png_bytep> rows;
  unsigned orientation = 1;

  explicit Png(const Bytes& encoded) : bytes(encoded) {
    const auto on_error = [](png_structp png, png_const_charp message) {
      static_cast<Png*>(png_get_error_ptr(png))->message = message;
      png_longjmp(png, 1);
    };
    const auto on_warning = [](png_structp, png_const_charp) {};
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    info = png == nullptr ? nullptr : png_create_info_struct(png);
    if (info == nullptr) throw std::runtime_error("libpng cannot be used: out of memory, or of another version");
  }
  ~Png() { png_destroy_read_struct(&png, &info, nullptr); }
  Png(const Png&) = delete;
};

void next_of_png(png_structp png, png_bytep into, std::size_t size) {
  auto* source = static_cast<Png*>(png_get_io_ptr(png));
  if (size > source->bytes.size() - source->at) png_error(png, "ends too early");
  std::memcpy(into, source->bytes.data() + source->at, size);
  source->at += size;
}

// All kinds of PNG to RGBA; grey of 16 bits is scaled, of colours of 16 bits the upper byte is taken, as Pillow does.
void ask_for_rgba(png_structp png, png_infop info) {
  const bool grey = (png_get_color_type(png, info) & PNG_COLOR_MASK_COLOR) == 0;
  png_set_expand(png);
  if (grey) {
    png_set_scale_16(png);
  } else {
    png_set_strip_16(png);
  }
  png_set_gray_to_rgb(png);
  png_set_add_alpha(png, 255, PNG_FILLER_AFTER);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
}

// false: libpng's error is in image.message
bool read_png(Png& image) {
  if (setjmp(png_jmpbuf(image.png)) != 0) return false;
  png_set_read_fn(image.png, &image, next_of_png);
  png_read_info(image.png, image.info);
  image.width = png_get_image_width(image.png, image.info);
  image.height = png_get_image_height(image.png, image.info);
  if (image.width > kMostPixels / image.height) return true;  // refused by whoever called
  ask_for_rgba(image.png, image.info);
  image.rgba.resize(4 * image.width * image.height);
  for (std::size_t row = 0; row < image.height; ++row) {
    image.rows.push_back(image.rgba.data() + 4 * image.width * row);
  }
  png_read_image(image.png, image.rows.data());
  png_read_end(image.png, image.info);
  png_uint_32 size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(image.png, image.info, &size, &exif) != 0) image.orientation = orientation_of(exif, size);
  return true;
}

Image from_png(const Bytes& bytes) {
  Png image(bytes);
  if (!read_png(image)) throw std::runtime_error(image.message);
  require_size(image.width, image.height);
  return upright(on_white(image.width, image.height, image.rgba.data()), image.orientation);
}

unsigned webp_orientation(const Bytes& bytes) {
  const WebPData data{bytes.data(), bytes.size()};
  const std::unique_ptr<WebPDemuxer, void (*)(WebPDemuxer*)> demuxer(WebPDemux(&data), WebPDemuxDelete);
  WebPChunkIterator chunk{};
  unsigned orientation = 1;
  if (demuxer && WebPDemuxGetChunk(demuxer.get(), "EXIF", 1, &chunk)) {
    const std::size_t head = chunk.chunk.size > 6 && std::memcmp(chunk.chunk.bytes, "Exif\0\0", 6) == 0 ? 6 : 0;
    orientation = orientation_of(chunk.chunk.bytes + head, chunk.chunk.size - head);
    WebPDemuxReleaseChunkIterator(&chunk);
  }
  return orientation;
}

Image from_webp(const Bytes& bytes) {
  int width = 0, height = 0;
  if (!WebPGetInfo(bytes.data(), bytes.size(), &width, &height)) throw std::runtime_error("is no sound WebP");
  require_size(static_cast<std::size_t>(width), static_cast<std::size_t>(height));
  const std::unique_ptr<std::uint8_t, void (*)(void*)> rgba(
      WebPDecodeRGBA(bytes.data(), bytes.size(), &width, &height), WebPFree);
  if (!rgba) throw std::runtime_error("is damaged, or an animation");
  Image image = on_white(static_cast<std::size_t>(width), static_cast<std::size_t>(height), rgba.get());
  return upright(std::move(image), webp_orientation(bytes));
}

bool begins(const Bytes& bytes, std::string_view head, std::size_t at = 0) {
  return bytes.size() >= at + head.size() && std::memcmp(bytes.data() + at, head.data(), head.size()) == 0;
}

}  // namespace

Image decoded(const std::string& file, std::optional<std::size_t> least_px) {
  const Bytes bytes = bytes_of(file);
  if (begins(bytes, "\xFF\xD8")) return from_jpeg(bytes, least_px);
  if (begins(bytes, "\x89PNG")) return from_png(bytes);
  if (begins(bytes, "RIFF") && begins(bytes, "WEBP", 8)) return from_webp(bytes);
  throw std::runtime_error("is no JPEG, PNG or WebP");
}
