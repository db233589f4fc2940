// Live images of the camera, as fast as the device can answer them, and no faster than a person can read.

const SHORTEST_MS = 100; // between two images
const REASONS = {
  NotAllowedError: "this page may not use it: allow the camera for it in the browser's settings",
  NotFoundError: "there is none",
  NotReadableError: "another program is using it",
};

/**
 * Show the camera in a <video> and ask about its images until stopped; returns { stop }.
 *
 * ask: takes an ImageBitmap, resolves when it is answered; the next image is taken only then
 * onEnd: called with the reason when the camera stops by itself; not after `stop`
 *
 * Rejects with an Error that says why there is no camera.
 */
export async function startCamera(video, ask, onEnd) {
  if (!navigator.mediaDevices) {
    throw new Error("No camera: browsers allow it only to pages from https:// or localhost.");
  }
  let stream;
  try {
    const wanted = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
  } catch (error) {
    throw new Error(`No camera: ${REASONS[error.name] ?? error.message}.`);
  }
  const [track] = stream.getVideoTracks();
  let running = true;
  const stop = () => {
    running = false;
    stream.getTracks().forEach((each) => each.stop());
    video.srcObject = null;
  };
  track.addEventListener("ended", () => {
    stop();
    onEnd("The camera was switched off.");
  });
  video.classList.toggle("mirrored", track.getSettings().facingMode === "user");
  video.srcObject = stream;
  await video.play();

  const loop = async () => {
    while (running) {
      await new Promise((resolve) => requestAnimationFrame(resolve)); // which a hidden page does not get
      const start = performance.now();
      await ask(await createImageBitmap(video));
      const busy = performance.now() - start;
      await new Promise((resolve) => setTimeout(resolve, Math.max(SHORTEST_MS - busy, busy))); // half is rest
    }
  };
  loop().catch((error) => {
    if (running) {
      stop();
      onEnd(error.message);
    }
  });
  return { stop };
}
