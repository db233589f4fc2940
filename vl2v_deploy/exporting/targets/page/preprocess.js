// Decoded pixels to what the student takes: the twin of vl2v_deploy/client/preprocess.py, from RGBA on. Transparency
// is laid on white, the whole image is squashed to a square as Pillow's BILINEAR does it, integer for integer.

const BITS = 22; // of a weight, so that 255 * the sum of all weights fits into an int32
const HALF = 1 << (BITS - 1);
const STRIP_PIXELS = 1 << 20; // at once: phones limit the area of a canvas, and photos are larger

/**
 * The image as the graph takes it: Uint8Array (S, S, 3), RGB.
 *
 * image: upright, { width, height, data: RGBA bytes whose colours are not multiplied by alpha }
 * sizePx: S
 */
export function preprocess({ width, height, data }, sizePx) {
  const read = (left, top, columns, rows) => {
    const part = new Uint8Array(columns * rows * 4);
    for (let row = 0; row < rows; row++) {
      const from = 4 * ((top + row) * width + left);
      part.set(data.subarray(from, from + 4 * columns), 4 * row * columns);
    }
    return part;
  };
  return preprocessFrom(width, height, read, sizePx);
}

/**
 * The same of an image that is read part by part.
 *
 * read: (left, top, columns, rows) => RGBA bytes of that rectangle
 */
export function preprocessFrom(width, height, read, sizePx) {
  const across = weightsOf(width, sizePx);
  const down = weightsOf(height, sizePx);
  // As Pillow does from 13 on; earlier ones always go across first, one level apart here and there.
  if (height > sizePx && height - sizePx > 2 * (width - sizePx)) {
    const low = new Uint8Array(sizePx * width * 3); // (S, W, 3)
    for (const [left, columns] of strips(width, height)) {
      const rgb = opaque(read(left, 0, columns, height)); // (H, columns, 3)
      squashDown(rgb, columns, low, left, width, down);
    }
    return squashAcross(low, width, across);
  }
  const narrow = new Uint8Array(height * sizePx * 3); // (H, S, 3)
  for (const [top, rows] of strips(height, width)) {
    const rgb = opaque(read(0, top, width, rows)); // (rows, W, 3)
    narrow.set(squashAcross(rgb, width, across), top * sizePx * 3);
  }
  const square = new Uint8Array(sizePx * sizePx * 3);
  squashDown(narrow, sizePx, square, 0, sizePx, down);
  return square;
}

// [start, length] of consecutive parts of `whole` rows (or columns) that are `across` pixels long.
function* strips(whole, across) {
  const step = Math.max(1, Math.floor(STRIP_PIXELS / across));
  for (let start = 0; start < whole; start += step) {
    yield [start, Math.min(step, whole - start)];
  }
}

// RGB of RGBA bytes laid on white. Pillow divides by 255 as (x + x / 256) / 256 with seven more bits, rounding.
function opaque(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      const colour = rgba[from + channel];
      if (alpha === 255) {
        rgb[to + channel] = colour;
      } else {
        const sum = (colour * alpha + 255 * (255 - alpha) + 128) << 7;
        rgb[to + channel] = ((sum >> 8) + sum) >> 15;
      }
    }
  }
  return rgb;
}

// For each of `to` results the triangle of inputs that it is the mean of: where it starts, and its weights.
function weightsOf(from, to) {
  const scale = from / to;
  const radius = Math.max(scale, 1); // wider than the step where the image shrinks: that is the antialiasing
  const results = [];
  for (let index = 0; index < to; index++) {
    const centre = (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - radius + 0.5));
    const end = Math.min(from, Math.trunc(centre + radius + 0.5));
    const shares = [];
    for (let at = start; at < end; at++) {
      shares.push(Math.max(0, 1 - Math.abs((at - centre + 0.5) * (1 / radius))));
    }
    const sum = shares.reduce((total, share) => total + share, 0);
    results.push({ start, weights: Int32Array.from(shares, (share) => 0.5 + (share / sum) * 2 ** BITS) });
  }
  return results;
}

// (rows, columns, 3) -> (rows, S, 3)
function squashAcross(rgb, columns, across) {
  const rows = rgb.length / (3 * columns);
  const squashed = new Uint8Array(rows * across.length * 3);
  for (let row = 0, to = 0; row < rows; row++) {
    for (const { start, weights } of across) {
      let [red, green, blue] = [HALF, HALF, HALF];
      for (let tap = 0, at = 3 * (row * columns + start); tap < weights.length; tap++, at += 3) {
        red += rgb[at] * weights[tap];
        green += rgb[at + 1] * weights[tap];
        blue += rgb[at + 2] * weights[tap];
      }
      squashed[to++] = clipped(red);
      squashed[to++] = clipped(green);
      squashed[to++] = clipped(blue);
    }
  }
  return squashed;
}

// (H, columns, 3) -> (S, columns, 3), written into the columns of (S, stride, 3) from `left` on
function squashDown(rgb, columns, squashed, left, stride, down) {
  down.forEach(({ start, weights }, row) => {
    for (let column = 0, to = 3 * (row * stride + left); column < 3 * columns; column++, to++) {
      let sum = HALF;
      for (let tap = 0, at = 3 * start * columns + column; tap < weights.length; tap++, at += 3 * columns) {
        sum += rgb[at] * weights[tap];
      }
      squashed[to] = clipped(sum);
    }
  });
}

// Rounded weights may add up to a little more than one.
function clipped(sum) {
  return Math.min(255, sum >> BITS);
}
