// The page: an image comes in, the student is asked, its answer is shown.

import { answerOf } from "./answer.js";
import { startCamera } from "./camera.js";
import { openStudent } from "./student.js";
import { showAnswer, showFacts, showLoading, showNotice, showTimes, showWaiting } from "./view.js";

const byId = (id) => document.getElementById(id);
const stage = byId("stage");

let record; // student.json
let student = null; // the one that answers
let chosen = null; // { provider, model } of it
let camera = null;
let image = null; // the file that was asked about last: a student chosen later answers it again
let times = [];

async function start() {
  listenForImages(); // one that comes before the student is answered as soon as it is there
  const answer = await fetch("student.json");
  if (!answer.ok) {
    throw new Error(`student.json: the server says ${answer.status}`);
  }
  record = await answer.json();
  document.title = `${record.bundle} · student`;
  byId("name").textContent = record.bundle;
  record.models.forEach(({ precision, bytes }, index) => {
    const label = document.createElement("label");
    label.innerHTML = '<input type="radio" name="precision"><span></span>';
    const [input, text] = label.children;
    Object.assign(input, { value: precision, checked: index === 0 });
    text.textContent = `${precision} `;
    const size = document.createElement("small");
    size.textContent = megabytes(bytes);
    text.append(size);
    byId("precisions").append(label);
  });
  showWaiting(record);
  listenForChoices();
  await choose("wasm", record.models[0]);
}

/** From now on this student answers; where it cannot be had the page says why, and goes on with the former. */
async function choose(provider, model) {
  const settings = document.querySelectorAll("fieldset");
  settings.forEach((each) => (each.disabled = true));
  showNotice("");
  const what = `Loading the ${model.precision} student for ${provider === "wasm" ? "the CPU" : "WebGPU"}`;
  showLoading(what);
  try {
    const opened = await openStudent(record, model, provider, (share) => showLoading(what, share));
    student?.close();
    [student, chosen, times] = [opened, { provider, model }, []];
    showFacts(record, chosen, student);
  } catch (error) {
    const rest = chosen ? ` Still on ${chosen.provider === "wasm" ? "the CPU" : "WebGPU"}, ${chosen.model.precision}.` : "";
    showNotice(`${error.message}.${rest}`);
  }
  showLoading(null);
  settings.forEach((each) => (each.disabled = false));
  checkSettings();
  if (image && !camera) {
    await ask(image, nameOf(image));
  }
}

// The radio buttons say what answers; a pair that would not run as asked cannot be chosen.
function checkSettings() {
  const { provider, model } = chosen ?? { provider: "wasm", model: record.models[0] };
  document.querySelectorAll("fieldset input").forEach((input) => {
    input.checked = input.value === provider || input.value === model.precision;
    const onGpu = input.value === "webgpu" && model.precision === "int8";
    const inInt8 = input.value === "int8" && provider === "webgpu";
    input.disabled = onGpu || inInt8;
  });
  const int8 = record.models.some(({ precision }) => precision === "int8");
  byId("hint").textContent =
    int8 && (provider === "webgpu" || model.precision === "int8") ? "int8 is for CPUs; WebGPU runs fp32." : "";
}

async function askFile(file) {
  stopCamera();
  image = file;
  const shown = byId("shown");
  URL.revokeObjectURL(shown.src);
  shown.src = URL.createObjectURL(file);
  stage.dataset.shows = "image";
  showNotice("");
  await ask(file, nameOf(file));
}

const nameOf = (file) => file.name || "The image";

async function ask(source, name) {
  const asked = student;
  if (!asked) {
    return; // it is asked again once a student is there
  }
  try {
    const result = await asked.classify(source);
    if (asked === student && (camera || source === image)) {
      times.push(result.preprocessMs + result.inferenceMs);
      showAnswer(record, answerOf(result.logits, record.classes, record.abstain_below));
      showTimes(result, times);
    }
  } catch (error) {
    if (error.code === "closed" || (source !== image && !camera)) {
      return;
    }
    stage.dataset.shows = camera ? "camera" : "nothing";
    image = null;
    showWaiting(record);
    showNotice(`${name} cannot be used: ${error.message}.`);
  }
}

async function toggleCamera() {
  const button = byId("camera");
  if (camera) {
    stopCamera();
    return;
  }
  button.disabled = true;
  showNotice("");
  try {
    const video = byId("video");
    camera = await startCamera(video, (frame) => ask(frame, "The camera's image"), stopped);
    image = null;
    stage.dataset.shows = "camera";
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Stop camera";
  } catch (error) {
    showNotice(error.message);
  }
  button.disabled = false;
}

function stopCamera() {
  if (camera) {
    camera.stop();
    stopped();
  }
}

function stopped(reason = "") {
  camera = null;
  stage.dataset.shows = "nothing";
  byId("camera").setAttribute("aria-pressed", "false");
  byId("camera").textContent = "Use camera";
  showWaiting(record);
  showNotice(reason);
}

function listenForImages() {
  byId("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    target.value = ""; // so that the same file can be chosen again
    if (file) {
      askFile(file);
    }
  });
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) {
      stage.classList.remove("over"); // it left the window
    }
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    take(event.dataTransfer);
  });
}

function listenForChoices() {
  byId("camera").addEventListener("click", toggleCamera);
  document.addEventListener("visibilitychange", () => document.hidden && stopCamera());
  byId("providers").addEventListener("change", ({ target }) => choose(target.value, chosen?.model ?? record.models[0]));
  byId("precisions").addEventListener("change", ({ target }) => {
    const model = record.models.find(({ precision }) => precision === target.value);
    choose(chosen?.provider ?? "wasm", model);
  });
}

// What was pasted or dropped.
function take(transfer) {
  const [file] = transfer?.files ?? [];
  if (file) {
    askFile(file);
  } else {
    showNotice("That holds no image file: save the image first, then choose it.");
  }
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

start().catch((error) => {
  showLoading(null);
  showNotice(`The page cannot start: ${error.message}.`);
});
