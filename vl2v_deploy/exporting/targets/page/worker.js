// One student in one runtime, in a thread of its own: the page stays smooth, and ending the worker frees all memory.

import { decode, readerOf } from "./decode.js";
import { preprocessFrom } from "./preprocess.js";

let ort;
let session;
let sizePx;

const tasks = { load, classify };
let last = Promise.resolve();

self.onmessage = ({ data: { id, task, given } }) => {
  // One after the other: a session runs one image at a time.
  last = last.then(async () => {
    try {
      self.postMessage({ id, result: await tasks[task](given) });
    } catch (error) {
      self.postMessage({ id, error: { message: error?.message ?? String(error), code: error?.code } });
    }
  });
};

/**
 * Load runtime and student; { runtimeVersion, threads }.
 *
 * provider: "wasm" or "webgpu"; that one or an error, never the other
 * script, binary: addresses of the runtime; student: of the ONNX file
 */
async function load({ provider, script, binary, student, imageSizePx }) {
  if (provider === "webgpu") {
    await requireWebGpu();
  }
  sizePx = imageSizePx;
  const received = new Map();
  const report = (url, bytes) => {
    received.set(url, bytes);
    self.postMessage({ progress: [...received.values()].reduce((sum, each) => sum + each, 0) });
  };
  let wasmBinary, model;
  [ort, wasmBinary, model] = await Promise.all([import(script), fetched(binary, report), fetched(student, report)]);
  ort.env.logLevel = "error"; // it warns of what it places where, also where that is as it should be
  ort.env.wasm.wasmBinary = wasmBinary;
  // Threads need shared memory, which servers have to allow by the COOP and COEP headers.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  session = await ort.InferenceSession.create(model, { executionProviders: [provider] });
  await run(new Uint8Array(sizePx * sizePx * 3)); // the first run compiles and allocates: not the user's to wait for
  return { runtimeVersion: ort.env.versions.web, threads: ort.env.wasm.numThreads };
}

/**
 * { logits, preprocessMs, inferenceMs, width, height } of a Blob or ImageBitmap.
 *
 * preprocessMs: decoding, reading the pixels and resizing
 */
async function classify({ image }) {
  const start = performance.now();
  const bitmap = image instanceof ImageBitmap ? image : await decoded(image);
  const { width, height } = bitmap;
  const pixels = preprocessFrom(width, height, readerOf(bitmap), sizePx);
  bitmap.close();
  const ready = performance.now();
  const logits = await run(pixels);
  return { logits, preprocessMs: ready - start, inferenceMs: performance.now() - ready, width, height };
}

async function run(pixels) {
  const images = new ort.Tensor("uint8", pixels, [1, sizePx, sizePx, 3]);
  const { logits } = await session.run({ images }, ["logits"]);
  return Float32Array.from(await logits.getData());
}

async function decoded(blob) {
  try {
    return await decode(blob);
  } catch {
    throw failure("image", "it is damaged, or not an image that this browser can read");
  }
}

async function requireWebGpu() {
  if (!navigator.gpu) {
    const why = self.isSecureContext ? "this browser has none" : "it needs a page from https:// or localhost";
    throw failure("webgpu", `WebGPU is not available: ${why}`);
  }
  if (!(await navigator.gpu.requestAdapter())) {
    throw failure("webgpu", "WebGPU is not available: this browser found no graphics adapter for it");
  }
}

async function fetched(url, report) {
  const answer = await fetch(url);
  if (!answer.ok) {
    throw failure("fetch", `${url}: the server says ${answer.status} ${answer.statusText}`);
  }
  const parts = [];
  let bytes = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) {
      break;
    }
    parts.push(value);
    report(url, (bytes += value.length));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function failure(code, message) {
  return Object.assign(new Error(message), { code });
}
