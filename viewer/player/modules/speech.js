// From sound to the person's mouth: log-mel, then the exported speech model in onnxruntime-web, token by token.

import { Hearing } from "./hearing.js";
import { checkedBytes, PlayerError } from "./load.js";
import { LogMelStream } from "./logmel.js";
import { Resampler } from "./resample.js";

/** The runtime and the model, loaded once per player; sessions are shared by all sounds. */
export class SpeechModel {
  static async load({ manifest, tensors, files }) {
    const spec = manifest.speech;
    if (!spec) throw new PlayerError("This avatar was made from a clip without sound: it follows tracks, sliders and callbacks, but not speech.");
    if (!spec.runtime) throw new PlayerError("This player was exported without onnxruntime-web, so it cannot listen. Export it again where that is installed (see README.md).");
    let ort;
    try {
      ort = await import(files.address(spec.runtime));
    } catch (error) {
      throw new PlayerError(`${spec.runtime} cannot be loaded (${error.message}). Copy the whole folder.`);
    }
    ort.env.wasm.numThreads = 1; // threads would need headers that a plain static host does not send
    ort.env.wasm.wasmBinary = await checkedBytes(files, manifest, spec.wasm);
    ort.env.logLevel = "error";
    const model = await checkedBytes(files, manifest, spec.model);
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
    return new SpeechModel(ort, session, spec, tensors);
  }

  constructor(ort, session, spec, tensors) {
    this.ort = ort;
    this.session = session;
    this.spec = spec;
    this.low = pick(tensors["person.low"].data, spec.coefficient_indices);
    this.high = pick(tensors["person.high"].data, spec.coefficient_indices);
    this.queue = Promise.resolve();
  }

  /** One run at a time: the runtime does not take a second while the first is under way. */
  run(feeds) {
    const result = this.queue.then(() => this.session.run(feeds));
    this.queue = result.catch(() => {});
    return result;
  }

  /** Mouth coefficients widened by `gain` around rest and kept within what the person can do. */
  shaped(values, gain) {
    const { rest } = this.spec;
    return Array.from(values, (v, i) => {
      const reach = (edge) => Math.min(1, Math.max(0, rest[i] + Math.max(gain, 1) * (edge - rest[i])));
      const low = Math.min(reach(this.low[i]), rest[i]);
      const high = Math.max(reach(this.high[i]), rest[i]);
      return Math.min(high, Math.max(low, rest[i] + gain * (v - rest[i])));
    });
  }
}

function pick(list, indices) {
  return indices.map((i) => list[i]);
}

/** One utterance: samples at any rate in, mouth tokens out; offline and live give the same numbers. */
export class SpeechStream {
  constructor(model, rate) {
    this.model = model;
    this.spec = model.spec;
    this.resampler = new Resampler(rate, this.spec.sample_rate);
    this.mel = new LogMelStream(this.spec);
    this.hearing = new Hearing(this.spec);
    this.columns = new Float32Array(0);
    this.stepped = 0; // tokens the model has taken
    this.samples = 0; // taken, at the model's rate
    const { inputs, start } = this.spec;
    this.state = Object.fromEntries(Object.keys(start).map((name) => [name, this.tensor(inputs[name], start[name], name === "seen")]));
    this.values = []; // Float32Array per token, from the sound's beginning on
  }

  tensor(shape, fill, whole) {
    const size = shape.reduce((a, b) => a * b, 1);
    const data = whole ? new BigInt64Array(size).fill(BigInt(fill)) : new Float32Array(size).fill(fill);
    return new this.model.ort.Tensor(whole ? "int64" : "float32", data, shape);
  }

  /** Seconds into the sound of token `k`. */
  time(k) {
    return this.spec.first_token_seconds + k / this.spec.token_rate;
  }

  /** Takes samples (mono, -1..1, at the stream's rate) and returns how many tokens are known now. */
  async push(samples) {
    await this.take(this.resampler.push(samples));
    return this.values.length;
  }

  async take(samples) {
    this.samples += samples.length;
    await this.takeColumns(this.mel.push(samples));
  }

  /** The sound is over: what is after it counts as silence. */
  async end() {
    await this.take(this.resampler.flush());
    const { hop, n_mels: bands, columns_per_token: width, look_ahead_tokens: ahead, silence } = this.spec;
    const columns = Math.floor(this.samples / hop);
    const tokens = Math.ceil(columns / width);
    const missing = (tokens + ahead) * width - columns;
    await this.takeColumns(new Float32Array(missing * bands).fill(silence));
    this.values.length = tokens;
  }

  async takeColumns(columns) {
    const all = new Float32Array(this.columns.length + columns.length);
    all.set(this.columns);
    all.set(columns, this.columns.length);
    const token = this.spec.columns_per_token * this.spec.n_mels;
    let from = 0;
    for (; all.length - from >= token; from += token) await this.step(all.slice(from, from + token));
    this.columns = all.slice(from);
  }

  async step(columns) {
    const { inputs, look_ahead_tokens: ahead, rest } = this.spec;
    const heard = this.hearing.token(columns);
    const results = await this.model.run({ ...this.state, log_mel: new this.model.ort.Tensor("float32", heard.columns, inputs.log_mel) });
    for (const name of Object.keys(this.state)) this.state[name] = results[`next_${name}`];
    // the first outputs of a stream lie before its beginning
    if (this.stepped >= ahead) this.values.push(results.mouth.data.map((v, i) => rest[i] + heard.share * (v - rest[i])));
    this.stepped++;
  }

  /** The mouth at a time of the sound (s): linear between tokens, held at the ends; null before the first. */
  at(time, gain = 1) {
    if (!this.values.length) return null;
    const place = Math.min(this.values.length - 1, Math.max(0, (time - this.time(0)) * this.spec.token_rate));
    const low = Math.floor(place);
    const next = this.values[Math.min(low + 1, this.values.length - 1)];
    const mixed = this.values[low].map((v, i) => v + (place - low) * (next[i] - v));
    return this.model.shaped(mixed, gain);
  }
}
