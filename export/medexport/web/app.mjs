// The page: drop an image, see what the model says. Names from the model are only ever set as text.

import { decode, open, predict } from "./model.mjs";

const at = (id) => document.getElementById(id);
const STRENGTH = 0.6; // as medinfer --heatmaps paints
let model;

try {
  model = await open();
  at("name").textContent = document.title = model.contract.name;
  at("file").disabled = false;
  say("Ready: the samples inside the model come out as they should.");
  const asked = new URLSearchParams(location.search).get("image"); // an image of this folder
  if (asked) await show(await (await fetch(asked)).blob());
} catch (error) {
  fail(error);
}

at("file").addEventListener("change", ({ target }) => target.files[0] && show(target.files[0]));
for (const kind of ["dragover", "dragleave", "drop"])
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && model && event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
  });

async function show(file) {
  at("answer").hidden = true;
  say("Looking …");
  try {
    const image = await decode(file);
    if (Math.min(image.width, image.height) < model.contract.input.min_side)
      throw new Error(`the model wants sides of at least ${model.contract.input.min_side} pixels`);
    const answer = await predict(model, image);
    const shown = [...answer.probabilities.data];
    const best = shown.indexOf(Math.max(...shown));
    at("label").textContent = `${model.contract.classes[best]} (${shown[best].toFixed(4)})`;
    fill("probabilities", shown.map((p, k) => [model.contract.classes[k], p.toFixed(6), bar(p)]));
    verdicts(shown);
    draw("picture", image);
    explain(image, answer.heatmap, best);
    at("answer").hidden = false;
    say(`${image.width} x ${image.height} pixels`);
  } catch (error) {
    fail(error);
  }
}

function verdicts(shown) {
  const { classes, operating_points: points = [] } = model.contract;
  at("points").hidden = !points.length;
  const rows = points.map(({ name, positive, threshold }) => {
    const p = positive.reduce((sum, one) => sum + shown[classes.indexOf(one)], 0);
    return [name, threshold.toFixed(4), p.toFixed(6), p >= threshold ? "positive" : "negative"];
  });
  fill("verdicts", rows);
}

function fill(id, rows) {
  at(id).replaceChildren(
    ...rows.map((cells) => {
      const row = document.createElement("tr");
      row.append(...cells.map((cell) => Object.assign(document.createElement("td"), cell.tagName ? {} : { textContent: cell })));
      cells.forEach((cell, i) => cell.tagName && row.children[i].append(cell));
      return row;
    }),
  );
}

function bar(value) {
  return Object.assign(document.createElement("progress"), { max: 1, value });
}

function draw(id, { width, height, data }) {
  Object.assign(at(id), { width, height });
  at(id).getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(data), width, height), 0, 0);
}

// Where the class that was called comes from: what speaks for it, in red, the stronger the more.
function explain(image, heatmap, best) {
  const seen = heatmap && model.contract.input.fit === "stretch";
  at("explained").hidden = !seen;
  if (!seen) return;
  const [, , rows, columns] = heatmap.dims;
  const shares = heatmap.data.slice(best * rows * columns, (best + 1) * rows * columns).map((v) => Math.max(0, v));
  const top = Math.max(...shares, 1e-12);
  const small = new OffscreenCanvas(columns, rows);
  const paint = new ImageData(columns, rows);
  shares.forEach((share, i) => paint.data.set([220, 30, 30, (255 * STRENGTH * share) / top], 4 * i));
  small.getContext("2d").putImageData(paint, 0, 0);
  draw("heatmap", image);
  const context = at("heatmap").getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, image.width, image.height);
  at("about").textContent = `what speaks for ${model.contract.classes[best]}: moved the network, and is no finding`;
}

function say(words) {
  at("status").classList.remove("failed");
  at("status").textContent = words;
}

function fail(error) {
  at("status").classList.add("failed");
  at("status").textContent = `This cannot be answered: ${error.message}`;
}
