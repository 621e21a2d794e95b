"use strict";

// Orders of the rows: each row names its place in every order.
const rowList = document.getElementById("rows");
const orders = document.getElementById("orders");
const placeOf = (row, order) => Number(row.dataset.places.split(" ")[order]);

orders.hidden = rowList.children.length < 2;
orders.addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (!pressed) return;
  for (const button of orders.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button === pressed));
  }
  const order = Number(pressed.dataset.order);
  rowList.append(...[...rowList.children].sort((a, b) => placeOf(a, order) - placeOf(b, order)));
});

// The viewer shows one tile large. Left and right go through the tiles of its row, up and down through the rows.
const viewer = document.getElementById("viewer");
let shown = null;

function show(link) {
  if (!link) return;
  const tile = link.querySelector("img");
  const image = viewer.querySelector("img");
  shown = link;
  image.src = link.href;
  image.alt = tile.alt;
  image.style.aspectRatio = tile.getAttribute("width") + " / " + tile.getAttribute("height");
  document.getElementById("viewer-caption").textContent = tile.alt;
  if (!viewer.open) viewer.showModal();
}

function neighbour(step) {
  const tiles = [...shown.closest(".tiles").querySelectorAll("a")];
  return tiles[(tiles.indexOf(shown) + step + tiles.length) % tiles.length];
}

function sameTileOfRow(direction) {
  const figures = [...shown.closest(".tiles").children];
  const row = shown.closest(".row")[direction];
  return row && row.querySelector(".tiles").children[figures.indexOf(shown.closest("figure"))].querySelector("a");
}

rowList.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link);
});

viewer.addEventListener("click", (event) => {
  if (event.target === viewer || "close" in event.target.dataset) viewer.close();
  if ("step" in event.target.dataset) show(neighbour(Number(event.target.dataset.step)));
});

viewer.addEventListener("keydown", (event) => {
  const moves = {
    ArrowLeft: () => neighbour(-1),
    ArrowRight: () => neighbour(1),
    ArrowUp: () => sameTileOfRow("previousElementSibling"),
    ArrowDown: () => sameTileOfRow("nextElementSibling"),
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  show(moves[event.key]());
});

viewer.addEventListener("close", () => shown.focus());
