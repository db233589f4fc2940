// A student in a Node.js program, with onnxruntime-node and sharp:
//
//   npm ci --prefix examples/node --ignore-scripts
//   node examples/node/classify.mjs bundles/q photo.jpg another.png
//
// The first argument is a bundle, or a page made by `vl2v-deploy export --web`. Preprocessing and answer are those
// of the page: take preprocess.js and answer.js along into a program of your own. --json prints a line an image.

import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { InferenceSession, Tensor } from "onnxruntime-node";
import sharp from "sharp";
import { answerOf } from "../../vl2v_deploy/exporting/targets/page/answer.js";
import { preprocess } from "../../vl2v_deploy/exporting/targets/page/preprocess.js";

const BUNDLE_FORMAT = 2;
const SITE_FORMAT = 1;

async function main() {
  const options = { precision: { type: "string", default: "fp32" }, json: { type: "boolean", default: false } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const [folder, ...images] = positionals;
  if (!images.length) {
    throw new Error("usage: node classify.mjs [--precision fp32] [--json] BUNDLE_OR_SITE IMAGE...");
  }
  const student = await openStudent(folder, values.precision);
  for (const image of images) {
    const answer = await classify(student, image);
    console.log(values.json ? JSON.stringify({ image, ...answer }) : `${image}: ${inWords(answer)}`);
  }
}

/** { session, classes, sizePx, abstainBelow } of a bundle or a page. */
async function openStudent(folder, precision) {
  const facts = read(folder, "manifest.json") ?? read(folder, "student.json");
  if (!facts) {
    throw new Error(`${folder}: holds neither manifest.json nor student.json: not a bundle, not a page`);
  }
  const { format, classes, image_size_px: sizePx } = facts;
  const expected = facts.precisions ? BUNDLE_FORMAT : SITE_FORMAT;
  if (format !== expected) {
    throw new Error(`${folder}: format ${format}, this program reads ${expected}; export again`);
  }
  const files = facts.precisions ?? Object.fromEntries(facts.models.map((model) => [model.precision, model]));
  if (!files[precision]) {
    throw new Error(`${folder}: holds no ${precision} file; it has: ${Object.keys(files).join(", ")}`);
  }
  const abstainBelow = facts.confidence ? facts.confidence.abstain_below : facts.abstain_below;
  const session = await InferenceSession.create(path.join(folder, files[precision].file));
  return { session, classes, sizePx, abstainBelow };
}

/** { label, probability, top, abstained } of an image file. */
async function classify({ session, classes, sizePx, abstainBelow }, file) {
  const images = new Tensor("uint8", preprocess(await decode(file), sizePx), [1, sizePx, sizePx, 3]);
  const { logits } = await session.run({ images });
  return answerOf(logits.data, classes, abstainBelow);
}

/** { width, height, data } upright, RGBA, in the image's own colours. */
async function decode(file) {
  try {
    const upright = sharp(file, { ignoreIcc: true }).autoOrient().toColourspace("srgb").ensureAlpha();
    const { data, info } = await upright.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data };
  } catch (error) {
    throw new Error(`${file}: cannot be used: ${error.message.split("\n")[0]}`);
  }
}

function read(folder, name) {
  const file = path.join(folder, name);
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined;
}

function inWords({ label, probability, abstained }) {
  const confidence = `${(100 * probability).toFixed(1)} %`;
  return abstained ? `not sure; closest is ${label}, ${confidence}` : `${label}, ${confidence}`;
}

main().catch((error) => {
  console.error(`Error: ${error.message}`);
  process.exitCode = 1;
});
