// The map: what its colours mean, which points stand out, and the image of the point that is pointed at.
"use strict";
(() => {
  const points = JSON.parse(document.getElementById("points").textContent);
  const map = document.getElementById("map-card");
  const panel = document.getElementById("point");
  let here = null;

  const press = (buttons, chosen) => buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === chosen)));

  const standOut = (name) => {
    map.querySelectorAll("circle.only").forEach((c) => c.classList.remove("only"));
    if (name === null) return map.removeAttribute("data-only");
    map.setAttribute("data-only", "");
    map.querySelectorAll(`circle.${name}`).forEach((c) => c.classList.add("only"));
  };

  const keys = [...map.querySelectorAll(".key button")];
  const ways = [...map.querySelectorAll(".by button")];
  ways.forEach((button) => button.addEventListener("click", () => {
    map.dataset.by = button.value;
    press(ways, button);
    press(keys, null);
    standOut(null);
  }));
  keys.forEach((button) => button.addEventListener("click", () => {
    const chosen = button.getAttribute("aria-pressed") === "true" ? null : button;
    press(keys, chosen);
    standOut(chosen && chosen.value);
  }));

  const show = (event) => {
    const circle = event.target.closest("circle");
    if (!circle || circle === here) return;
    if (here) here.classList.remove("here");
    here = circle;
    circle.classList.add("here");
    const { url, words } = points[circle.dataset.row];
    const image = Object.assign(new Image(), { src: url, alt: "" });
    const text = Object.assign(document.createElement("p"), { textContent: words });
    panel.replaceChildren(image, text);
  };
  map.querySelector("svg.map").addEventListener("pointerover", show);
  map.querySelector("svg.map").addEventListener("click", show);
})();
