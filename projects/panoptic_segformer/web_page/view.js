// Picture and table mark the segment under the pointer, or the one whose row has the focus, and a tip tells what it is.
// The parts are looked up at each event: a new result replaces them all.
const DISTANCE = 14; // Of the tip from the pointer, pixels.

function mark(part) {
  const id = part ? part.dataset.segment : null;
  for (const other of element.querySelectorAll("[data-segment]")) {
    other.classList.toggle("marked", other.dataset.segment === id);
  }
}

function showTip(part, x, y) {
  const tip = element.querySelector(".tip");
  if (!tip) return;
  tip.hidden = !part;
  if (!part) return;
  tip.textContent = element.querySelector(`tr[data-segment="${part.dataset.segment}"]`).dataset.tip;
  tip.style.left = `${Math.min(x + DISTANCE, window.innerWidth - tip.offsetWidth)}px`;
  tip.style.top = `${Math.min(y + DISTANCE, window.innerHeight - tip.offsetHeight)}px`;
}

const partOf = (event) => event.target.closest("[data-segment]");

element.addEventListener("pointerover", (event) => mark(partOf(event)));
element.addEventListener("pointermove", (event) => {
  const part = partOf(event);
  showTip(part && part.closest("svg") ? part : null, event.clientX, event.clientY);
});
element.addEventListener("pointerleave", () => { mark(null); showTip(null); });
element.addEventListener("focusin", (event) => mark(partOf(event)));
element.addEventListener("focusout", () => mark(null));
