// The student as the rest of the page sees it: opened in a worker, asked, closed.

/**
 * A loaded student: { classify(image), close(), runtimeVersion, threads }.
 *
 * record: the site's student.json; model: one of its models; provider: "wasm" or "webgpu"
 * onProgress: called with the share of all bytes that has arrived, in [0, 1]; not at all where the size is not known
 *
 * Rejects with an Error whose code is "webgpu" where that was asked for and is not there. What was asked and is not
 * answered yet when it is closed is rejected with the code "closed".
 */
export async function openStudent(record, model, provider, onProgress = () => {}) {
  const runtime = record.runtime[provider];
  const total = runtime.bytes && runtime.bytes + model.bytes;
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let count = 0;
  let failure = null; // what ended the worker: nothing asked afterwards would ever be answered

  worker.onmessage = ({ data: { id, result, error, progress } }) => {
    if (progress !== undefined) {
      if (total) {
        onProgress(Math.min(1, progress / total));
      }
      return;
    }
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) {
      reject(Object.assign(new Error(error.message), { code: error.code }));
    } else {
      resolve(result);
    }
  };
  const fail = (error) => {
    failure = error;
    worker.terminate();
    waiting.forEach(({ reject }) => reject(error));
    waiting.clear();
  };
  worker.onerror = (event) => {
    event.preventDefault();
    fail(new Error(event.message || "the browser could not start worker.js"));
  };

  const ask = (task, given, moved = []) =>
    new Promise((resolve, reject) => {
      if (failure) {
        reject(failure);
        return;
      }
      const id = count++;
      waiting.set(id, { resolve, reject });
      worker.postMessage({ id, task, given }, moved);
    });

  const absolute = (path) => new URL(path, import.meta.url).href;
  try {
    const facts = await ask("load", {
      provider,
      script: absolute(runtime.script),
      binary: absolute(runtime.binary),
      student: absolute(model.file),
      imageSizePx: record.image_size_px,
    });
    return {
      ...facts,
      classify: (image) => ask("classify", { image }, image instanceof ImageBitmap ? [image] : []),
      close: () => fail(Object.assign(new Error("the student was closed"), { code: "closed" })),
    };
  } catch (error) {
    worker.terminate();
    throw error;
  }
}
