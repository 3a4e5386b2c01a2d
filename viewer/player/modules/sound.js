// Sound as a source of motion: a file that is played (its clock leads, the picture follows), or the microphone.

import { PlayerError } from "./load.js";
import { SpeechStream } from "./speech.js";

const AHEAD_SECONDS = 1; // of mouth known before a file starts to sound
const SLICE_SECONDS = 0.16;

/** A sound file: decoded, understood ahead of the playing head, played. */
export class SoundFile {
  static async open(model, bytes, context) {
    let sound;
    try {
      sound = await context.decodeAudioData(bytes.slice(0));
    } catch {
      throw new PlayerError("This sound cannot be decoded. Use a WAV, MP3, M4A or Ogg file.");
    }
    return new SoundFile(model, sound, context);
  }

  constructor(model, sound, context) {
    this.sound = sound;
    this.context = context;
    this.stream = new SpeechStream(model, sound.sampleRate);
    this.duration = sound.duration;
    this.closed = false;
    this.playing = false;
    this.starting = null; // a mark of the newest `play`, until a pause or the end
    this.place = 0; // s, where it was paused
    this.understood = this.understand();
    this.understood.catch(() => {});
  }

  /** Runs ahead through the whole file in small steps, so that pictures go on meanwhile. */
  async understand() {
    const { sound, stream } = this;
    const mono = new Float32Array(sound.length);
    for (let c = 0; c < sound.numberOfChannels; c++) {
      const channel = sound.getChannelData(c);
      for (let i = 0; i < mono.length; i++) mono[i] += channel[i] / sound.numberOfChannels;
    }
    const slice = Math.round(SLICE_SECONDS * sound.sampleRate);
    for (let from = 0; from < mono.length && !this.closed; from += slice) {
      await stream.push(mono.subarray(from, from + slice));
      await new Promise((resolve) => setTimeout(resolve));
    }
    if (!this.closed) await stream.end();
  }

  async play() {
    if (this.playing || this.closed) return;
    const mine = (this.starting = {});
    await this.context.resume();
    const known = () => this.stream.time(this.stream.values.length) >= Math.min(this.place + AHEAD_SECONDS, this.duration - 0.2);
    await Promise.race([this.understood, until(() => this.starting !== mine || known())]);
    if (this.starting !== mine) return; // paused, closed or started again meanwhile
    this.node = new AudioBufferSourceNode(this.context, { buffer: this.sound });
    this.node.connect(this.context.destination);
    this.node.start(0, this.place);
    this.started = this.context.currentTime - this.place;
    this.playing = true;
  }

  pause() {
    this.starting = null;
    if (!this.playing) return;
    this.place = this.time;
    this.playing = false;
    this.node.stop();
    this.node.disconnect();
  }

  seek(time) {
    const { playing } = this;
    if (playing) this.pause(); // one that is only starting starts there
    this.place = Math.min(this.duration, Math.max(0, time));
    if (playing) return this.play();
  }

  /** What is heard right now, s: the sound card's clock, less what is still on its way to the ear. */
  get time() {
    if (!this.playing) return this.place;
    const late = this.context.outputLatency || this.context.baseLatency || 0;
    return Math.min(this.duration, Math.max(0, this.context.currentTime - late - this.started));
  }

  get ended() {
    return this.playing && this.time >= this.duration;
  }

  mouth(time, gain) {
    return this.stream.at(time, gain);
  }

  close() {
    this.pause();
    this.closed = true;
  }
}

function until(ready) {
  return new Promise((resolve) => {
    const look = () => (ready() ? resolve() : setTimeout(look, 10));
    look();
  });
}

/** Runs on the audio thread; turned into text. Gathers about 10 ms so that messages stay few. */
function tapProcessor() {
  class Tap extends AudioWorkletProcessor {
    constructor() {
      super();
      this.parts = [];
      this.count = 0;
    }

    process([input]) {
      if (!input.length) return true;
      const mono = new Float32Array(input[0].length);
      for (const channel of input) for (let i = 0; i < mono.length; i++) mono[i] += channel[i] / input.length;
      this.parts.push(mono);
      this.count += mono.length;
      if (this.count >= sampleRate / 100) {
        const all = new Float32Array(this.count);
        let at = 0;
        for (const part of this.parts) {
          all.set(part, at);
          at += part.length;
        }
        this.parts = [];
        this.count = 0;
        this.port.postMessage(all, [all.buffer]);
      }
      return true;
    }
  }
  registerProcessor("avatar-tap", Tap);
}

const LONGEST_SECONDS = 600; // after this the stream starts afresh, so that nothing grows for ever
const BACKLOG_SECONDS = 0.5; // more than this behind, old sound is skipped: late is worse than missing

/** The microphone: what is said now moves the mouth as soon as it is understood (about 0.15 s later). */
export class Microphone {
  static async open(model, context) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new PlayerError("This page may not use the microphone: open it over https or on localhost.");
    }
    let media;
    try {
      media = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true } });
    } catch (error) {
      throw new PlayerError(error.name === "NotFoundError" ? "There is no microphone." : "The microphone was not allowed. Allow it in the address bar and try again.");
    }
    const address = URL.createObjectURL(new Blob([`(${tapProcessor})()`], { type: "text/javascript" }));
    try {
      await context.resume();
      await context.audioWorklet.addModule(address);
      return new Microphone(model, context, media);
    } catch (error) {
      for (const track of media.getTracks()) track.stop(); // or it would listen to nobody's use
      throw error;
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  constructor(model, context, media) {
    this.model = model;
    this.context = context;
    this.media = media;
    this.source = new MediaStreamAudioSourceNode(context, { mediaStream: media });
    this.tap = new AudioWorkletNode(context, "avatar-tap", { numberOfOutputs: 0 });
    this.source.connect(this.tap);
    this.duration = Infinity;
    this.playing = true;
    this.closed = false;
    this.failed = null;
    this.waiting = [];
    this.afresh();
    this.tap.port.onmessage = ({ data }) => this.heard(data);
  }

  afresh() {
    this.stream = new SpeechStream(this.model, this.context.sampleRate);
    this.began = this.context.currentTime;
  }

  heard(samples) {
    this.waiting.push(samples);
    const most = (BACKLOG_SECONDS * this.context.sampleRate) / samples.length;
    if (this.waiting.length > most) this.waiting.splice(0, this.waiting.length - Math.ceil(most / 2));
    if (!this.busy) this.busy = this.listen().catch((error) => (this.failed = error)).finally(() => (this.busy = null));
  }

  async listen() {
    while (this.waiting.length && !this.closed) {
      const parts = this.waiting.splice(0);
      for (const part of parts) await this.stream.push(part);
      if (this.stream.stepped / this.stream.spec.token_rate > LONGEST_SECONDS) this.afresh();
    }
  }

  get time() {
    return this.context.currentTime - this.began;
  }

  get ended() {
    return this.closed;
  }

  mouth(_time, gain) {
    const { stream } = this; // what was understood last, not what is heard now
    return stream.at(stream.time(stream.values.length - 1), gain);
  }

  async play() {}
  pause() {}
  seek() {}

  close() {
    this.closed = true;
    this.tap.port.onmessage = null;
    this.source.disconnect();
    for (const track of this.media.getTracks()) track.stop();
  }
}
