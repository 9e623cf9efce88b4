// Recognise audio with the exported sizes of a supernet, in this page. See docs/deploying.md.
//
// models/ holds sizes.json (what each size costs, and its files), tokens.json (what decoding
// needs) and samples.json (test utterances); `python3 -m espnet_des.bin.prepare_web` writes it.

const RUNTIME = "./node_modules/onnxruntime-web/dist/";
const MODELS = "./models/";
const MAX_SECONDS = 60; // attention grows with the square of the length, and so does its memory
const RUNS = 5; // of a recognition at most, of which the median time is shown
const RUNS_MS = 1000; // after which no other run begins

const at = (id) => document.getElementById(id);
const number = (value, digits) =>
  value.toLocaleString("en", { minimumSignificantDigits: digits, maximumSignificantDigits: digits });

/** An error that says what to do; any other one is a mistake in this file. */
class Told extends Error {}

let ort; // onnxruntime-web
let sizes, about; // sizes.json and tokens.json
let audio = null; // what is recognised: {name, samples, reference}
const bytesOf = new Map(); // address of a file of weights to its bytes, which sizes share
const sessions = new Map(); // address of a graph to its session

// ---------------------------------------------------------------- recognising

/** A session of one size; the graph points into the file of weights that all sizes share. */
async function sessionOf({ graph, weights }) {
  if (!sessions.has(graph)) {
    if (!bytesOf.has(weights)) {
      bytesOf.set(weights, await load(weights, bytes));
    }
    const content = await load(graph, bytes);
    sessions.set(graph, await ort.InferenceSession.create(content, {
      executionProviders: ["wasm"],
      externalData: [{ path: weights.split("/").pop(), data: bytesOf.get(weights) }],
    }));
  }
  return sessions.get(graph);
}

/** CTC log-probabilities (1, frames, tokens) of samples. */
async function logProbs(session, samples) {
  const given = {
    speech: new ort.Tensor("float32", samples, [1, samples.length]),
    speech_lengths: new ort.Tensor("int64", [BigInt(samples.length)], [1]),
  };
  return (await session.run(given)).log_probs;
}

/** CTC best path: the best token of each frame, repetitions merged, blanks left out. */
async function recognise(session, samples) {
  if (samples.length < about.min_length) return "";
  const { data, dims } = await logProbs(session, samples);
  const [, frames, width] = dims;
  const tokens = [];
  let previous = -1;
  for (let frame = 0; frame < frames; frame++) {
    const row = data.subarray(frame * width, (frame + 1) * width);
    const best = row.reduce((top, value, i) => (value > row[top] ? i : top), 0);
    if (best !== previous && best !== about.blank_id) tokens.push(about.tokens[best]);
    previous = best;
  }
  const joined = tokens.join(about.token_type === "word" ? " " : "");
  return joined.replaceAll("<space>", " ").replaceAll("▁", " ").trim();
}

/** The text, and milliseconds: the median of a few runs, since the first ones are slower. */
async function timed(session, samples) {
  const times = [];
  const began = performance.now();
  let text;
  do {
    const start = performance.now();
    text = await recognise(session, samples);
    times.push(performance.now() - start);
  } while (times.length < RUNS && performance.now() - began < RUNS_MS);
  times.sort((a, b) => a - b);
  return { text, ms: times[(times.length - 1) >> 1] };
}

// ---------------------------------------------------------------- audio

/** Samples of any audio that the browser reads, at the model's rate, and what was done. */
async function decodeAudio(bytes, name) {
  const rate = about.sampling_rate;
  const own = rateOf(bytes); // before decodeAudioData, which takes the bytes away
  let found;
  try {
    // Decoding in a context of this rate resamples to it.
    found = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new Told(
      `${name} is no audio that this browser can read. Choose a WAV, FLAC, MP3 or Ogg file.`,
    );
  }
  if (found.duration > MAX_SECONDS) {
    throw new Told(
      `${name} is ${number(found.duration, 3)} s long. Choose audio of ${MAX_SECONDS} s at most.`,
    );
  }
  const samples = new Float32Array(found.length);
  for (let channel = 0; channel < found.numberOfChannels; channel++) {
    const own = found.getChannelData(channel);
    for (let i = 0; i < samples.length; i++) samples[i] += own[i] / found.numberOfChannels;
  }
  const done = [`${number(found.duration, 3)} s.`];
  if (own === null) done.push(`The browser resamples to ${rate} Hz where the rate is another.`);
  else if (own === rate) done.push(`It has the model's ${rate} Hz.`);
  else done.push(`The browser resampled it from ${own} to the model's ${rate} Hz.`);
  if (found.numberOfChannels > 1) done.push(`Its ${found.numberOfChannels} channels are averaged.`);
  return { samples, done: done.join(" ") };
}

/** The samples per second that a WAV or FLAC file tells of; null of other formats. */
function rateOf(bytes) {
  if (bytes.byteLength < 44) return null;
  const view = new DataView(bytes);
  const tag = (place) => String.fromCharCode(...new Uint8Array(bytes, place, 4));
  if (tag(0) === "fLaC") return view.getUint32(18) >>> 12;
  return tag(0) === "RIFF" && tag(12) === "fmt " ? view.getUint32(24, true) : null;
}

/** Take audio as what is recognised. */
async function take(blob, name, reference = null) {
  audio = null;
  showNothing();
  at("player").removeAttribute("src"); // of what was taken before
  at("player").load();
  const { samples, done } = await decodeAudio(await blob.arrayBuffer(), name);
  audio = { name, samples, reference };
  at("player").src = URL.createObjectURL(blob);
  at("conversion").textContent = `${name}: ${done}`;
  await recogniseAndShow();
}

let recorder = null;

/** Begin to record, or end it and take what was recorded. */
async function record() {
  if (recorder) return recorder.stop();
  if (!navigator.mediaDevices) {
    throw new Told(
      "The browser gives the microphone only to pages of this machine (http://localhost) or by " +
      "https. Open the page so, or choose a file.",
    );
  }
  let stream;
  try {
    // As the training's audio: nothing of it is cleaned or amplified.
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  } catch (error) {
    throw new Told(
      error.name === "NotAllowedError"
        ? "The browser does not let this page use the microphone. Allow it beside the address, " +
          "or choose a file."
        : `No microphone could be opened (${error.name}). Connect one, or choose a file.`,
    );
  }
  const parts = [];
  recorder = new MediaRecorder(stream, { audioBitsPerSecond: 128000 });
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.onstop = () => {
    clearTimeout(end);
    stream.getTracks().forEach((track) => track.stop());
    showRecording(false);
    const type = recorder.mimeType;
    recorder = null;
    at("sample").value = "";
    work(() => take(new Blob(parts, { type }), "The recording"));
  };
  const end = setTimeout(() => recorder?.stop(), 1000 * (MAX_SECONDS - 1));
  recorder.start();
  showRecording(true);
}

// ---------------------------------------------------------------- the page

const chosenSize = () => sizes[at("size").value];
const chosenKind = () => document.querySelector("input[name=kind]:checked").value;

function showSize() {
  const { size, params, macs_per_second, kept_layers, weights } = chosenSize();
  at("layers").value = size;
  at("size").setAttribute("aria-valuetext", `${size} layers`);
  at("params").textContent = params.toLocaleString("en");
  at("macs").textContent = number(macs_per_second / 1e6, 3);
  at("bytes").textContent = `${number(weights[chosenKind()].bytes / 1e6, 3)} MB`;
  at("kept").textContent = kept_layers.join(", ");
}

function showNothing() {
  for (const id of ["text", "time", "rtf", "reference", "conversion", "tried"]) {
    at(id).replaceChildren();
  }
}

function showRecording(is) {
  at("record").setAttribute("aria-pressed", is);
  at("record").textContent = is ? "Stop, and recognise" : "Record from the microphone";
}

async function recogniseAndShow() {
  if (!audio) return;
  const kind = chosenKind();
  const { size, weights } = chosenSize();
  const session = await sessionOf(weights[kind]);
  const { text, ms } = await timed(session, audio.samples);
  const rtf = ms / 1000 / (audio.samples.length / about.sampling_rate);
  at("text").textContent = text || "(no text)";
  at("reference").textContent = audio.reference === null ? "" : `Spoken: ${audio.reference}`;
  at("time").textContent = `${ms.toFixed(1)} ms`;
  at("rtf").textContent = number(rtf, 2);
  const row = document.createElement("tr");
  row.dataset.size = `${size} ${kind}`;
  for (const cell of [size, kind, ms.toFixed(1), text]) {
    row.insertCell().textContent = cell;
  }
  at("tried").querySelector(`[data-size="${row.dataset.size}"]`)?.remove();
  at("tried").prepend(row);
}

let queue = Promise.resolve();
let waiting = 0;

/** Do one thing after the other, and tell what goes wrong. */
function work(task) {
  waiting++;
  at("page").setAttribute("aria-busy", "true");
  at("progress").textContent = "Working.";
  at("message").hidden = true;
  at("message").textContent = "";
  queue = queue.then(task).catch(tell).finally(() => {
    if (--waiting) return;
    at("page").setAttribute("aria-busy", "false");
    at("progress").textContent = at("message").hidden ? "Ready." : "";
  });
}

function tell(error) {
  if (!(error instanceof Told)) console.error(error);
  at("message").textContent = error instanceof Told
    ? error.message
    : `This failed: ${error.message ?? error}. Reload the page; if that does not help, remove ` +
      "web/models and run make demo-web again.";
  at("message").hidden = false;
}

const bytes = async (answer) => new Uint8Array(await answer.arrayBuffer());

/** A file of models/, or what to do where it is not there. */
async function load(path, read) {
  let answer = null;
  try {
    answer = await fetch(MODELS + path, { cache: "no-cache" }); // it may have been made anew
  } catch {
    throw new Told("The page's server does not answer. Run make demo-web, and reload the page.");
  }
  if (!answer.ok) {
    throw new Told(`web/models/${path} is missing. Run make demo-web, and reload the page.`);
  }
  return read(answer);
}

async function start() {
  [sizes, about] = [
    (await load("sizes.json", (answer) => answer.json())).sizes,
    await load("tokens.json", (answer) => answer.json()),
  ];
  const samples = await load("samples.json", (answer) => answer.json());
  try {
    ort = await import(`${RUNTIME}ort.wasm.bundle.min.mjs`);
  } catch {
    throw new Told(
      "onnxruntime-web is missing. Run npm ci in the folder web, or make demo-web, and reload.",
    );
  }
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL(RUNTIME, location.href).href;

  samples.forEach(({ name }, i) => at("sample").add(new Option(name, i)));
  Object.keys(sizes[0].weights).forEach((kind, i) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), {
      type: "radio", name: "kind", value: kind, checked: i === 0,
    });
    label.append(input, kind);
    at("kinds").append(label);
  });
  at("size").max = at("size").value = sizes.length - 1;
  for (const { size } of sizes) {
    at("ticks").append(Object.assign(document.createElement("span"), { textContent: size }));
  }
  showSize();

  const takeSample = async () => {
    const chosen = samples[at("sample").value];
    if (!chosen) return;
    const blob = await load(chosen.file, (answer) => answer.blob());
    await take(blob, chosen.name, chosen.reference);
  };
  at("sample").addEventListener("change", () => {
    at("file").value = "";
    work(takeSample);
  });
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    if (!file) return;
    at("sample").value = "";
    work(() => take(file, file.name));
  });
  at("record").addEventListener("click", () => work(record));
  at("size").addEventListener("input", showSize);
  at("size").addEventListener("change", () => work(recogniseAndShow));
  at("kinds").addEventListener("change", () => {
    showSize();
    work(recogniseAndShow);
  });
  for (const id of ["sample", "file", "record", "size"]) at(id).disabled = false;
  at("sample").value = samples.length ? "0" : "";
  await takeSample();
}

work(start);
