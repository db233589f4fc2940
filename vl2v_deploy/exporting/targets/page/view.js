// What the visitor sees and hears.

const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const words = (label) => label.replaceAll("_", " ");
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

/** An error that the visitor has to know of; empty = none. */
export function showNotice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

/** What is being loaded, and the share that has arrived, if known; null = nothing. */
export function showLoading(text, share) {
  byId("loading").hidden = text === null;
  if (text === null) {
    return;
  }
  if (byId("loading-text").textContent !== text) {
    byId("loading-text").textContent = text;
  }
  if (share === undefined) {
    byId("progress").removeAttribute("value");
  } else {
    byId("progress").value = share;
  }
}

/** No image yet. */
export function showWaiting({ abstain_below: threshold }) {
  const verdict = byId("verdict");
  verdict.dataset.state = "waiting";
  delete verdict.dataset.label;
  byId("label").textContent = "Ready when you are";
  byId("sentence").textContent = "Choose an image, drop or paste one, or use the camera.";
  byId("legend").textContent =
    threshold === null
      ? "No threshold is known for these classes: it never abstains."
      : `Below the mark, ${percent(threshold)}, it says that it is not sure.`;
  byId("threshold").hidden = threshold === null;
  byId("threshold").style.left = percent(threshold ?? 0);
  byId("top").replaceChildren();
  setMeter(0, "no answer yet");
  ["preprocess", "inference", "median"].forEach((id) => (byId(id).textContent = "–"));
  byId("median-name").textContent = "p50 of both";
  byId("spoken").textContent = "";
}

/** The label with its confidence, or that there is none to rely on. */
export function showAnswer({ abstain_below: threshold }, { label, probability, top, abstained }) {
  const verdict = byId("verdict");
  verdict.dataset.state = abstained ? "unsure" : "sure";
  verdict.dataset.label = label;
  byId("label").textContent = abstained ? "Not sure" : words(label);
  const sentence = abstained
    ? `Closest: ${words(label)}, ${percent(probability)}.`
    : `${percent(probability)} confident.`;
  byId("sentence").textContent = sentence;
  setMeter(probability, threshold === null ? percent(probability) : `${percent(probability)}, ${percent(threshold)} needed`);
  byId("top").replaceChildren(...top.map(ranked));
  // Said aloud only when it changes, or a live camera would never be silent.
  const spoken = abstained ? `Not sure; closest is ${words(label)}.` : `${words(label)}.`;
  if (byId("spoken").textContent !== spoken) {
    byId("spoken").textContent = spoken;
  }
}

function setMeter(share, text) {
  byId("bar").style.width = percent(share);
  byId("meter").setAttribute("aria-valuenow", (100 * share).toFixed(1));
  byId("meter").setAttribute("aria-valuetext", text);
}

function ranked({ label, probability }) {
  const item = element("li");
  const bar = element("span", "", "share");
  bar.style.setProperty("--share", percent(probability));
  item.append(element("span", words(label), "name"), bar, element("span", percent(probability), "percent"));
  item.dataset.label = label;
  return item;
}

/** Times of the last image, and the median of all since this student was loaded. */
export function showTimes({ preprocessMs, inferenceMs }, times) {
  byId("preprocess").textContent = milliseconds(preprocessMs);
  byId("inference").textContent = milliseconds(inferenceMs);
  byId("median-name").textContent = `p50 of ${times.length}`;
  const sorted = times.toSorted((left, right) => left - right);
  byId("median").textContent = milliseconds(sorted[Math.floor(sorted.length / 2)]);
}

/** What is known of the student that answers, and what it runs on. */
export function showFacts(record, { provider, model }, { runtimeVersion, threads }) {
  const { accuracy, precision, bytes } = model;
  const on = provider === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  const unseen = ["Accuracy, unseen:", ...(accuracy?.targets ?? ["domain"])].join(" ");
  const shown = (share) => (share == null ? "not known" : percent(share));
  const facts = [
    ["Accuracy, known domains", shown(accuracy?.id)],
    [unseen, shown(accuracy?.ood)],
    ["Student", `${record.backbone}, ${record.image_size_px} px`],
    ["Precision and size", `${precision}, ${(bytes / 1e6).toFixed(1)} MB`],
    ["Runs on", on],
    ["Runtime", `onnxruntime-web ${runtimeVersion}`],
    [`${record.classes.length} classes`, record.classes.map(words).join(", ")],
  ];
  byId("facts").replaceChildren(
    ...facts.map(([name, value]) => {
      const fact = element("div");
      fact.append(element("dt", name), element("dd", value));
      return fact;
    }),
  );
}

function element(tag, text = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}
