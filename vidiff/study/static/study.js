"use strict";
// Both clips start together, answers are taken once both have been seen, and the next pair is fetched meanwhile.
const form = document.getElementById("vote");
const videos = [document.getElementById("left"), document.getElementById("right")];
const buttons = [...form.querySelectorAll("button")];
const hint = document.getElementById("hint");
const shown = performance.now();
const LEAST = 600; // ms for which even the shortest clips are looked at
let open = false;

for (const button of buttons) button.disabled = true;

const ready = (video) => new Promise((done) => {
  if (video.readyState >= 3) return done();
  video.addEventListener("canplay", done, { once: true });
  video.addEventListener("error", () => { hint.textContent = "a clip cannot be played here: reload the page"; });
});

Promise.all(videos.map(ready)).then(() => {
  hint.textContent = "";
  for (const video of videos) video.play().catch(() => { hint.textContent = "click a clip to play it"; });
  const seconds = Math.max(...videos.map((video) => video.duration || 0));
  setTimeout(() => {
    open = true;
    for (const button of buttons) button.disabled = false;
  }, Math.max(LEAST, Math.min(1000 * seconds, 4000)));
  const next = Number(form.dataset.next);
  if (next < Number(form.dataset.all)) {
    for (const side of ["left", "right"]) {
      const ahead = document.createElement("video");
      ahead.preload = "auto";
      ahead.src = `/clip/${next}/${side}`;
    }
  }
});

for (const video of videos) video.addEventListener("click", () => video.play());

form.addEventListener("submit", (event) => {
  if (!open) return event.preventDefault();
  open = false; // one answer a pair
  form.elements.seconds.value = ((performance.now() - shown) / 1000).toFixed(2);
  hint.textContent = "kept";
});

document.addEventListener("keydown", (event) => {
  const button = buttons.find((each) => each.dataset.key === event.key);
  if (!button) return;
  event.preventDefault(); // the page must not scroll
  if (open && !event.repeat) button.click();
});
