// The model in the browser: decoded pixels in, what it says of them out; held to its golden samples before it answers.

import * as ort from "./ort/ort.wasm.min.mjs";
import { preprocess, toColor } from "./preprocess.mjs";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
// More threads need headers that a plain static server does not send.
ort.env.wasm.numThreads = 1;

/** Open the model of this folder, and replay its golden samples; throws where they come out otherwise. */
export async function open() {
  const contract = await (await fetch("contract.json")).json();
  if (contract.format !== 1) throw new Error(`contract of format ${contract.format}: this page reads 1`);
  const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  const model = { contract, session };
  await replay(model);
  return model;
}

/** Return {probabilities, logits, heatmap?} as tensors for an RGBA image {width, height, data}. */
export async function predict({ contract, session }, image) {
  const { input, graph } = contract;
  const channels = input.color === "rgb" ? 3 : 1;
  const whole = graph.input === "image";
  const pixels = whole ? toColor(image, input).data : preprocess(image, input);
  const [height, width] = whole ? [image.height, image.width] : [input.height, input.width];
  const answer = await session.run({ image: new ort.Tensor("uint8", pixels, [1, height, width, channels]) });
  if (!answer.probabilities.data.every(Number.isFinite)) throw new Error("the model answered NaN or infinity");
  return answer;
}

/** Return the pixels of an image file: RGBA, upright, 8 bits, in the colours that stand in it. */
export async function decode(file) {
  const head = new Uint8Array(await file.slice(0, 32).arrayBuffer());
  if (head[0] === 0x89 && head[1] === 0x50 && head[24] === 16)
    throw new Error("a PNG of 16 bits, which browsers cut to 8 in their own way");
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(file, options);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { width, height } = bitmap;
  return { width, height, data: context.getImageData(0, 0, width, height).data };
}

async function replay(model) {
  const { contract } = model;
  const spread = (k) => {
    const column = contract.golden.map(({ logits }) => logits[k]);
    return Math.max(...column) - Math.min(...column);
  };
  const allowed = 1e-4 * Math.max(1, ...contract.classes.map((_, k) => spread(k)));
  // The stored tensors are of the model's size already: nothing is to be cut off them.
  const stored = { ...model, contract: { ...contract, input: { ...contract.input, fit: "stretch", min_side: 1 } } };
  for (const { tensor, logits } of contract.golden) {
    const bytes = Uint8Array.from(atob(tensor), (letter) => letter.charCodeAt(0));
    const found = (await predict(stored, await decode(new Blob([bytes], { type: "image/png" })))).logits.data;
    if (!logits.every((logit, k) => Math.abs(logit - found[k]) <= allowed))
      throw new Error("this browser does not reproduce the samples that the model carries");
  }
}
