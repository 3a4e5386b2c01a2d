// Motion tracks of other programs: Live Link Face CSV and JSON, as avatar/track/exchange.py reads them.

import { PlayerError } from "./load.js";

/**
 * A motion track: `times` in s from 0, `weights` a Float32Array of 52 per frame, `angles` head yaw, pitch, roll (rad)
 * per frame or null.
 */
export class Track {
  constructor(times, weights, angles) {
    if (!times.length) throw new PlayerError("The motion track has no frames.");
    const finite = (list) => list.every(Number.isFinite);
    if (!finite(times) || !finite(Array.from(weights)) || (angles && !finite(Array.from(angles)))) {
      throw new PlayerError("The motion track holds something that is not a number.");
    }
    if (times.some((t, i) => i && t <= times[i - 1])) throw new PlayerError("The times of the motion track do not increase.");
    this.times = times.map((t) => t - times[0]);
    this.weights = weights.map((w) => Math.min(1, Math.max(0, w)));
    this.angles = angles;
  }

  get duration() {
    return this.times[this.times.length - 1];
  }

  /** Coefficients and head angles at a time: linear between frames, held at the ends. */
  at(time) {
    const { times } = this;
    let low = 0;
    let high = times.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (times[middle] <= time) low = middle;
      else high = middle - 1;
    }
    const next = Math.min(low + 1, times.length - 1);
    const u = next === low ? 0 : Math.min(1, Math.max(0, (time - times[low]) / (times[next] - times[low])));
    const mix = (list, width) => Array.from({ length: width }, (_, i) => list[low * width + i] * (1 - u) + list[next * width + i] * u);
    return { coefficients: mix(this.weights, 52), angles: this.angles ? mix(this.angles, 3) : null };
  }
}

/** `content`: a parsed JSON track, or the text of a JSON or CSV one. */
export function parseTrack(content, names, rates) {
  if (typeof content !== "string") return fromJson(content, names);
  const text = content.replace(/^\uFEFF/, "");
  if (!text.trimStart().startsWith("{")) return fromCsv(text, names, rates);
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new PlayerError("The motion track is not JSON: it is damaged or cut short.");
  }
  return fromJson(parsed, names);
}

function fromJson(content, names) {
  const given = content?.names ?? content?.metadata?.blendshapeNames;
  const frames = content?.frames;
  if (!Array.isArray(given) || !Array.isArray(frames)) {
    throw new PlayerError('The motion track is not {"names": [...], "frames": [{"time": s, "weights": [...]}]}.');
  }
  const place = given.map((name) => names.indexOf(name));
  if (place.every((i) => i < 0)) throw new PlayerError("The motion track names no ARKit coefficient.");
  const weights = new Float32Array(frames.length * names.length);
  const turned = frames.length > 0 && frames.every((f) => Array.isArray(f.head) && f.head.length === 3);
  const rate = Number(content.metadata?.fps) || 30;
  const times = frames.map((frame, row) => {
    if (frame?.weights?.length !== given.length) throw new PlayerError(`Frame ${row} of the motion track has another number of weights than names.`);
    place.forEach((i, column) => {
      if (i >= 0) weights[row * names.length + i] = Number(frame.weights[column]);
    });
    return frame.time === undefined ? row / rate : Number(frame.time);
  });
  return new Track(times, weights, turned ? Float64Array.from(frames.flatMap((f) => f.head.map(Number))) : null);
}

function fromCsv(text, names, rates) {
  const rows = text.split(/\r?\n/).filter((line) => line.trim()).map((line) => line.split(",").map((cell) => cell.trim()));
  const header = rows.shift() ?? [];
  const column = (name) => header.indexOf(name[0].toUpperCase() + name.slice(1));
  const place = names.map(column);
  if (column("timecode") < 0 || place.every((i) => i < 0)) {
    throw new PlayerError("The file is not a Live Link Face CSV: it needs a Timecode column and blendshape columns.");
  }
  if (!rows.length || rows.some((row) => row.length < header.length)) {
    throw new PlayerError("The CSV has no frames or a line that was cut short.");
  }
  const times = seconds(rows.map((row) => row[column("timecode")]), rates);
  const weights = new Float32Array(rows.length * names.length);
  rows.forEach((row, r) => place.forEach((c, i) => {
    if (c >= 0) weights[r * names.length + i] = Number(row[c]);
  }));
  const head = ["headYaw", "headPitch", "headRoll"].map(column);
  const angles = head.every((c) => c >= 0) ? Float64Array.from(rows.flatMap((row) => head.map((c) => Number(row[c])))) : null;
  return new Track(times, weights, angles);
}

/** HH:MM:SS:FF.fff; frames count in the smallest standard rate that has the highest frame number seen. */
function seconds(codes, rates) {
  const parts = codes.map((code) => code.replaceAll(";", ":").split(":").map(Number));
  if (parts.some((p) => p.length !== 4)) throw new PlayerError(`'${codes[0]}' is not a time code HH:MM:SS:FF.`);
  const highest = parts.reduce((most, p) => Math.max(most, p[3]), 0);
  const rate = rates.find((r) => highest < r) ?? rates[rates.length - 1];
  return parts.map(([h, m, s, f]) => h * 3600 + m * 60 + s + f / rate);
}
