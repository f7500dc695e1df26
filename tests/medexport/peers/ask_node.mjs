// Run by node: FILE RAW BATCH HEIGHT WIDTH CHANNELS -> probabilities as JSON. RAW holds the pixels, uint8.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const ort = createRequire(`${process.cwd()}/`)("onnxruntime-node");
const [path, raw, ...sizes] = process.argv.slice(2);
const shape = sizes.map(Number);
const session = await ort.InferenceSession.create(path);
const image = new ort.Tensor("uint8", new Uint8Array(readFileSync(raw)), shape);
const { probabilities } = await session.run({ image }, ["probabilities"]);
const [batch, classes] = probabilities.dims;
const rows = Array.from({ length: batch }, (_, i) => Array.from(probabilities.data.slice(i * classes, (i + 1) * classes)));
console.log(JSON.stringify({ probabilities: rows }));
