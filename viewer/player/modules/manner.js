// The person's own manner around the mouth: head, torso, brows and gaze from their recorded motion, and blinks.
// The port of MannerStream and blink_times in avatar/speech/motion.py (there the sources are named); random numbers
// are the browser's, so it never runs the same way twice.

import { columns } from "./load.js";

const CANDIDATES = 6;
const SPEED_WEIGHT = 0.2; // s
const BLINK_REGULARITY = 3; // shape of the gamma distribution of intervals, a whole number

export class Manner {
  constructor({ manifest, tensors }) {
    this.settings = manifest.manner;
    const list = (name) => columns(tensors, `person.${name}`);
    const parts = [...list("excerpt_head"), ...list("excerpt_torso"), ...list("excerpt_face")];
    this.width = parts.length;
    this.length = parts[0].length;
    this.rows = Array.from({ length: this.length }, (_, t) => Float64Array.from(parts, (p) => p[t]));
    const { rate } = this.settings;
    this.speed = this.rows.map((_, t) => {
      const [a, b] = [Math.max(t - 1, 0), Math.min(t + 1, this.length - 1)];
      return this.rows[b].map((v, i) => (b > a ? ((v - this.rows[a][i]) * rate) / (b - a) : 0));
    });
    this.match = Array.from({ length: 12 }, (_, i) => 1 / Math.max(deviation(parts[i]), 1e-3)); // head and torso decide
    const data = (name) => tensors[`person.${name}`].data;
    this.blinkShape = data("blink_shape");
    this.blinkClosed = data("blink_closed");
    this.blinksPerSecond = Math.max(data("blink_rate")[0], 1e-3);
    this.low = this.settings.face_indices.map((i) => data("low")[i]);
    this.high = this.settings.face_indices.map((i) => data("high")[i]);
    this.restart();
  }

  restart() {
    this.index = Math.floor(Math.random() * Math.max(1, this.length / 2));
    this.left = this.stretch();
    this.offset = new Float64Array(this.width);
    this.drift = new Float64Array(this.width);
    this.since = 0;
    this.clock = 0; // s since the start
    this.window = [this.tick(), this.tick(), this.tick(), this.tick()];
    this.ticked = 0; // ticks that the window has moved
    this.blink = this.interval();
  }

  stretch() {
    const [low, high] = this.settings.stretch_seconds;
    return Math.floor((low + Math.random() * (high - low)) * this.settings.rate);
  }

  interval() {
    const pause = this.settings.blink_refractory_seconds;
    const mean = Math.max(1 / this.blinksPerSecond - pause, 0.2);
    let gamma = 0;
    for (let i = 0; i < BLINK_REGULARITY; i++) gamma -= Math.log(1 - Math.random());
    return this.clock + pause + (gamma * mean) / BLINK_REGULARITY;
  }

  /** What is left of the difference at the last joint, and its speed: a critically damped spring. */
  faded() {
    const { fade_rate: rate } = this.settings;
    const decay = Math.exp(-rate * this.since);
    const left = this.offset.map((o, i) => (o + (this.drift[i] + rate * o) * this.since) * decay);
    return [left, left.map((l, i) => (this.drift[i] + rate * this.offset[i]) * decay - rate * l)];
  }

  tick() {
    const left = this.faded()[0];
    const row = this.rows[this.index].map((v, i) => v + left[i]);
    this.left--;
    if (this.left <= 0 || this.index + 1 >= this.length) this.join();
    this.index = Math.min(this.index + 1, this.length - 1);
    this.since += 1 / this.settings.rate;
    return row;
  }

  /** Moves to another place of the recording where pose and speed nearly agree, and carries both on. */
  join() {
    const [left, drift] = this.faded();
    const pose = this.rows[this.index].map((v, i) => v + left[i]);
    const speed = this.speed[this.index].map((v, i) => v + drift[i]);
    const last = Math.max(1, this.length - Math.floor(this.settings.rate)); // at least a second must follow
    let places = Array.from({ length: last }, (_, i) => i);
    const far = places.filter((i) => Math.abs(i - this.index) > this.settings.rate);
    if (far.length) places = far;
    const cost = (i) => this.match.reduce((sum, m, c) => sum + ((this.rows[i][c] - pose[c]) * m) ** 2 + ((this.speed[i][c] - speed[c]) * m * SPEED_WEIGHT) ** 2, 0);
    const best = places.map((i) => [cost(i), i]).sort((a, b) => a[0] - b[0]).filter((_, i) => i % 5 === 0).slice(0, CANDIDATES);
    this.index = best[Math.floor(Math.random() * best.length)][1];
    this.offset = pose.map((v, i) => v - this.rows[this.index][i]);
    this.drift = speed.map((v, i) => v - this.speed[this.index][i]);
    this.since = 0;
    this.left = this.stretch();
  }

  /** Moves on by `seconds`: {head, torso: offsets (rad, cm), face: coefficients of face_indices, closure: 0..1}. */
  advance(seconds) {
    this.clock += Math.min(seconds, 1);
    const at = this.clock * this.settings.rate;
    while (at - this.ticked >= 1) {
      this.window = [...this.window.slice(1), this.tick()];
      this.ticked++;
    }
    const u = at - this.ticked;
    const [a, b, c, d] = this.window;
    const row = b.map((_, i) => b[i] + 0.5 * u * (c[i] - a[i] + u * (2 * a[i] - 5 * b[i] + 4 * c[i] - d[i] + u * (3 * (b[i] - c[i]) + d[i] - a[i]))));
    const face = Array.from(row.subarray(12), (v, i) => Math.min(this.high[i], Math.max(this.low[i], v)));
    const closure = this.closure();
    for (const i of this.settings.eye_columns) face[i] += closure * (this.blinkClosed[i] - face[i]);
    return { head: Array.from(row.subarray(0, 6)), torso: Array.from(row.subarray(6, 12)), face, closure };
  }

  closure() {
    const place = (this.clock - this.blink) * this.settings.blink_rate + Math.floor(this.blinkShape.length / 2);
    if (place >= this.blinkShape.length - 1) this.blink = this.interval();
    const i = Math.floor(place);
    if (i < 0 || i + 1 >= this.blinkShape.length) return 0;
    return this.blinkShape[i] + (place - i) * (this.blinkShape[i + 1] - this.blinkShape[i]);
  }
}

function deviation(list) {
  const mean = list.reduce((a, b) => a + b, 0) / list.length;
  return Math.sqrt(list.reduce((a, b) => a + (b - mean) ** 2, 0) / list.length);
}
