// Runs a model that medonnx exported in node.js, without medinfer: what there is to know stands in its contract.
//
//   medinfer info ckpt.onnx --json > contract.json     # onnxruntime-node does not read a model's metadata
//   npm install
//   node classify.mjs ckpt.onnx contract.json scan.png ...
//
// Prints a line of JSON for each image: PNG alone, and upright, for the orientation in an eXIf chunk is not applied.
// First it replays the golden samples that the contract carries, and goes no further where they come out otherwise.
// Research use only; not a medical device.

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import { PNG } from "pngjs";
import { preprocess, toColor } from "./preprocess.mjs";

const MOST_PIXELS = 100_000_000;

function decode(file) {
  // The size that is promised is judged before anything is allocated for it.
  if (file.length < 33 || file.readUInt32BE(16) * file.readUInt32BE(20) > MOST_PIXELS)
    throw new Error(`no PNG of at most ${MOST_PIXELS} pixels`);
  const deep = file[24] === 16;
  const { width, height, data } = PNG.sync.read(file, { skipRescale: deep }); // the contract says how 16 bits become 8
  return { width, height, data: deep ? new Uint16Array(data) : data };
}

// What the graph is fed of an image: the contract's tensor, or the image as it is where the graph resizes within.
function feed(image, { graph, input }) {
  if (graph.input === "image") return toColor(image, input);
  const { width, height } = input;
  return { width, height, data: preprocess(image, input) };
}

async function run(session, contract, { width, height, data }) {
  const channels = contract.input.color === "rgb" ? 3 : 1;
  const image = new ort.Tensor("uint8", data, [1, height, width, channels]);
  return session.run({ image }, ["probabilities", "logits"]);
}

function check(contract) {
  if (contract.format !== 1) throw new Error(`format ${contract.format}: this program reads 1`);
  const { input, batch, precision } = contract.graph;
  if (input === "float" || (batch ?? 1) !== 1 || precision !== "fp32")
    throw new Error("this program feeds single images in integers to a model in fp32");
}

// A port is right if its tensors are within a grey level of the stored ones, and its logits within docs/contract.md.
async function replay(session, contract) {
  const png = (text) => decode(Buffer.from(text, "base64"));
  const spreads = contract.classes.map((_, k) => {
    const column = contract.golden.map(({ logits }) => logits[k]);
    return Math.max(...column) - Math.min(...column);
  });
  const allowed = 1e-4 * Math.max(1, ...spreads);
  for (const sample of contract.golden) {
    const wanted = preprocess(png(sample.tensor), { ...contract.input, fit: "stretch", min_side: 1 });
    const made = preprocess(png(sample.image), contract.input);
    if (!made.every((level, i) => Math.abs(level - wanted[i]) <= 1))
      throw new Error("the golden samples' pixels differ");
    // Of the stored tensor, for a grey level moves a logit. A graph that resizes within leaves this size as it is.
    const { width, height } = contract.input;
    const { logits } = await run(session, contract, { width, height, data: wanted });
    if (!sample.logits.every((logit, k) => Math.abs(logit - logits.data[k]) <= allowed))
      throw new Error("the golden samples' logits differ");
  }
}

const [model, description, ...paths] = process.argv.slice(2);
const contract = JSON.parse(readFileSync(description, "utf8"));
check(contract);
const session = await ort.InferenceSession.create(model);
await replay(session, contract);
for (const path of paths) {
  try {
    const { probabilities } = await run(session, contract, feed(decode(readFileSync(path)), contract));
    if (!probabilities.data.every(Number.isFinite)) throw new Error("the model answered NaN or infinity");
    const of = Object.fromEntries(contract.classes.map((name, k) => [name, probabilities.data[k]]));
    const label = contract.classes.reduce((best, name) => (of[name] > of[best] ? name : best));
    console.log(JSON.stringify({ path, label, probability: of[label], probabilities: of }));
  } catch (error) {
    console.log(JSON.stringify({ path, error: error.message }));
    process.exitCode = 3; // some inputs failed
  }
}
