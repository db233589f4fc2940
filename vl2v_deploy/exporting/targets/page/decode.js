// Encoded images to pixels, with what browsers have, as near to Pillow as they come.

/** The image upright, in its own colours (no colour profile is applied), alpha apart; throws if it is not one. */
export function decode(blob) {
  return createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
}

/** (left, top, columns, rows) => RGBA bytes of that rectangle of an ImageBitmap. */
export function readerOf(bitmap) {
  return (left, top, columns, rows) => {
    const canvas = new OffscreenCanvas(columns, rows);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, left, top, columns, rows, 0, 0, columns, rows);
    return context.getImageData(0, 0, columns, rows).data;
  };
}
