// From decoded pixels to the tensor, by the contract (docs/contract.md): within a grey level of what medinfer makes.
// Needs nothing but the language, so that it can be carried over to another one.

/**
 * Return the tensor of one image: Uint8Array, height x width x channels.
 *
 * `image` is {width, height, data}: RGBA, upright, Uint8Array or Uint16Array; `input` is the contract's `input`.
 */
export function preprocess(image, input) {
  const picture = toColor(image, input);
  if (input.fit === "stretch") return resize(picture, input.width, input.height, input.interpolation).data;
  return input.fit.crop ? crop(picture, input) : pad(picture, input);
}

// Alpha, 16 bits to 8, colour: pixels of input.color's channels, 8 bits; what a graph that resizes within is fed.
export function toColor({ width, height, data }, input) {
  if (Math.min(width, height) < input.min_side)
    throw new RangeError(`${width}x${height} pixels; the model wants sides of at least ${input.min_side}`);
  const top = data instanceof Uint16Array ? 65535 : 255;
  const channels = input.color === "rgb" ? 3 : 1;
  const out = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const alpha = data[4 * i + 3] / top;
    const [r, g, b] = [0, 1, 2].map((c) => {
      const level = data[4 * i + c];
      if (input.alpha === "drop") return toByte(level, top, input.depth16);
      const behind = input.alpha.over[c] * (top === 255 ? 1 : 257);
      return toByte(Math.floor(alpha * level + (1 - alpha) * behind + 0.5), top, input.depth16);
    });
    // OpenCV's COLOR_RGB2GRAY, in its integers.
    if (channels === 1) out[i] = (9798 * r + 19235 * g + 3735 * b + 16384) >> 15;
    else out.set([r, g, b], 3 * i);
  }
  return { width, height, channels, data: out };
}

function toByte(level, top, { rule, low, high }) {
  if (top === 255) return level;
  if (rule === "high_byte") return level >> 8;
  return Math.floor(255 * Math.min(1, Math.max(0, (level - low) / (high - low))) + 0.5);
}

function crop(picture, input) {
  const shorter = Math.min(picture.width, picture.height);
  const scaledSide = (side) => Math.floor((input.fit.crop.resize * side) / shorter);
  const [width, height] = [scaledSide(picture.width), scaledSide(picture.height)];
  const scaled = resize(picture, width, height, input.interpolation);
  const [left, top] = [Math.floor((width - input.width) / 2), Math.floor((height - input.height) / 2)];
  const row = input.width * picture.channels;
  const out = new Uint8Array(input.height * row);
  for (let y = 0; y < input.height; y++) {
    const start = ((top + y) * width + left) * picture.channels;
    out.set(scaled.data.subarray(start, start + row), y * row);
  }
  return out;
}

function pad(picture, input) {
  const scale = Math.min(input.height / picture.height, input.width / picture.width);
  const scaledSide = (side) => Math.max(1, Math.floor(scale * side + 0.5));
  const [width, height] = [scaledSide(picture.width), scaledSide(picture.height)];
  const scaled = resize(picture, width, height, input.interpolation);
  const part = input.fit.pad.anchor === "center" ? 2 : Infinity;
  const [left, top] = [Math.floor((input.width - width) / part), Math.floor((input.height - height) / part)];
  const out = new Uint8Array(input.height * input.width * picture.channels).fill(input.fit.pad.value);
  const row = width * picture.channels;
  for (let y = 0; y < height; y++)
    out.set(scaled.data.subarray(y * row, (y + 1) * row), ((top + y) * input.width + left) * picture.channels);
  return out;
}

// OpenCV's resize: a weighted mean along each row, then along each column.
function resize(picture, width, height, interpolation) {
  const { channels } = picture;
  if (picture.width === width && picture.height === height) return picture;
  const shrinks = picture.width >= width && picture.height >= height;
  const across = weights(picture.width, width, interpolation, shrinks);
  const down = weights(picture.height, height, interpolation, shrinks);
  const rows = new Float32Array(picture.height * width * channels);
  for (let y = 0; y < picture.height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (const [from, weight] of across[x]) sum += weight * picture.data[(y * picture.width + from) * channels + c];
        rows[(y * width + x) * channels + c] = sum;
      }
  const row = width * channels;
  const data = new Uint8ClampedArray(height * row); // rounds, and keeps within 0..255
  for (let y = 0; y < height; y++)
    for (let i = 0; i < row; i++) {
      let sum = 0;
      for (const [from, weight] of down[y]) sum += weight * rows[from * row + i];
      data[y * row + i] = sum;
    }
  return { width, height, channels, data: new Uint8Array(data.buffer) };
}

// For each place of a side of `to` pixels, the [place, weight] of those of a side of `from` pixels that make it up.
function weights(from, to, interpolation, shrinks) {
  const scale = from / to;
  const inside = (place) => Math.min(from - 1, Math.max(0, place));
  return Array.from({ length: to }, (_, i) => {
    if (interpolation === "area" && shrinks) return covered(i * scale, Math.min(from, (i + 1) * scale));
    const center = interpolation === "area" ? enlarged(i, scale) : (i + 0.5) * scale - 0.5;
    const first = Math.floor(center);
    const parts = interpolation === "cubic" ? cubic(center - first) : [1 - (center - first), center - first];
    return parts.map((weight, k) => [inside(first + k - (parts.length === 4 ? 1 : 0)), weight]);
  });
}

// The pixels between two places, by how much of each lies there.
function covered(start, end) {
  const first = Math.floor(start);
  return Array.from({ length: Math.ceil(end) - first }, (_, k) => {
    const part = Math.min(end, first + k + 1) - Math.max(start, first + k);
    return [first + k, part / (end - start)];
  });
}

// Where "area" looks when a side grows: OpenCV then takes two pixels, with weights of its own.
function enlarged(i, scale) {
  const first = Math.floor(i * scale);
  const part = i + 1 - (first + 1) / scale;
  return first + (part <= 0 ? 0 : part - Math.floor(part));
}

// Keys' cubic convolution with a = -0.75, of the pixels at -1, 0, 1 and 2.
function cubic(t) {
  const a = -0.75;
  const near = (x) => ((a + 2) * x - (a + 3)) * x * x + 1;
  const far = (x) => ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return [far(1 + t), near(t), near(1 - t), far(2 - t)];
}
