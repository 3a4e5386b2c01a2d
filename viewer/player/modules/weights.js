// From a driver (52 coefficients and two poses) to basis weights: avatar/model/motion.py, lids.py, limits.py and beyond.py,
// then the mix of avatar/export/compact.py.

import { multiply3, rotationOf, transpose3 } from "./geometry.js";

/** Rotation vector of rotations below about 120 degrees, from the antisymmetric part. */
function turn(rotation, meanRotation, unit) {
  const r = multiply3(rotation, transpose3(meanRotation));
  return [r[7] - r[5], r[2] - r[6], r[3] - r[1]].map((v) => (0.5 * v) / unit);
}

function shift(pose, mean, std) {
  return [0, 1, 2].map((i) => (pose[4 * i + 3] - mean[4 * i + 3]) / std[i]);
}

export class Drivers {
  constructor({ manifest, tensors }) {
    const data = (name) => tensors[name].data;
    this.unit = manifest.driver.rotation_unit;
    this.mouth = manifest.driver.mouth_indices;
    this.stats = Object.fromEntries(
      ["coefficient_mean", "coefficient_std", "mean_head", "mean_torso", "head_std", "torso_std"].map((key) => [key, data(`features.${key}`)]),
    );
    this.lids = tensors["features.lids"] && { eyes: manifest.driver.eye_indices, bounds: data("features.lids") };
    // How each branch looks beyond what the coefficients say: no picture is seen here, so it is the likeliest.
    this.codes = tensors["features.code_map"] && {
      parts: manifest.driver.codes,
      drivers: manifest.driver.code_drivers,
      reach: manifest.driver.code_reach,
      map: data("features.code_map"),
      range: data("features.code_range"),
    };
    this.beyond = tensors["beyond.mix"] && {
      mix: data("beyond.mix"),
      gram: data("beyond.gram"),
      opening: data("beyond.opening"),
      lips: (wide) => softLimit(wide, ...manifest.driver.lips_cm, manifest.driver.lips_reach),
    };
    this.branches = manifest.layers.map(({ name, bases, modes = 0, features }) => ({
      name, bases, modes, features,
      linear: data(`${name}.linear.weight`),
      hidden: data(`${name}.hidden.weight`),
      bias: data(`${name}.hidden.bias`),
      out: data(`${name}.out.weight`),
      mix: tensors[`${name}.mix`]?.data, // a manifest of version 1 has drivers that give mixed weights, and no limits
      limits: limitsOf(name, tensors, manifest.driver),
    }));
  }

  /**
   * Weights of every branch (Float32Array each; of its bases, then of its modes), for 52 coefficients and two 3x4 poses of
   * 12 numbers.
   */
  weights(coefficients, head, torso) {
    const { coefficient_mean: mean, coefficient_std: std } = this.stats;
    const scaled = Array.from(this.lids ? asLidsClose(coefficients, this.lids) : coefficients, (c, i) => (c - mean[i]) / std[i]);
    const parts = {
      coefficients: scaled,
      mouth_coefficients: this.mouth.map((i) => scaled[i]),
      head_rotation: turn(rotationOf(head), rotationOf(this.stats.mean_head), this.unit),
      head_motion: shift(head, this.stats.mean_head, this.stats.head_std),
      torso_motion: [...turn(rotationOf(torso), rotationOf(this.stats.mean_torso), this.unit), ...shift(torso, this.stats.mean_torso, this.stats.torso_std)],
    };
    if (this.codes) Object.assign(parts, likeliestCodes(parts, this.codes));
    const answers = this.branches.map((branch) => answer(branch, branch.features.flatMap((name) => parts[name])));
    const modes = this.beyond ? this.modes(scaled, answers[this.branches.findIndex(({ name }) => name === "face")]) : [];
    return this.branches.map((branch, b) => Float32Array.from([...mixed(branch, answers[b].given), ...modes.slice(0, branch.modes)]));
  }

  /** Weights of the geometric prior's modes: what the limits took from the coefficients, zero where they took nothing. */
  modes(scaled, { heard, asked, given }) {
    const { mix, gram, opening, lips } = this.beyond;
    const count = mix.length / scaled.length;
    const along = Array.from(asked, (_, row) => asked.reduce((sum, w, k) => sum + gram[row * asked.length + k] * w, 0));
    const dot = (values) => values.reduce((sum, v, k) => sum + v * along[k], 0);
    const lost = dot(asked.map((w, k) => w - given[k])) / Math.max(dot(asked), 1e-6);
    const share = 1 - Math.min(1, Math.max(0, lost));
    const missing = scaled.map((v, i) => Math.min(1, Math.max(-1, (v - share * heard[i]) * this.stats.coefficient_std[i])));
    const wide = missing.reduce((sum, v, i) => sum + v * opening[i], 0);
    if (Math.abs(wide) >= 1e-6) for (const i of this.mouth) missing[i] *= lips(wide) / wide;
    return Array.from({ length: count }, (_, m) => missing.reduce((sum, v, i) => sum + v * mix[i * count + m], 0));
  }
}

/** Appearance codes that most likely go with a motion: linear in it, and hardly beyond their range in the clip. */
function likeliestCodes(known, { parts, drivers, reach, map, range }) {
  const heard = drivers.flatMap((name) => known[name]);
  const count = map.length / heard.length;
  const answer = (row) => heard.reduce((sum, v, i) => sum + map[row * heard.length + i] * v, 0);
  const codes = Array.from({ length: count }, (_, row) => softLimit(answer(row), range[row], range[count + row], reach));
  return Object.fromEntries(parts.map(([name, size]) => [name, codes.splice(0, size)]));
}

/** Coefficients with eyes that close as this person's do: bounds that close in from 0..1 on what goes with a blink. */
function asLidsClose(coefficients, { eyes, bounds }) {
  const changed = Array.from(coefficients);
  eyes.forEach(([blink, ...others], side) => {
    const at = 2 * (1 + others.length) * side;
    const [opened, shut] = [bounds[at], bounds[at + 1]];
    changed[blink] = Math.min(coefficients[blink], shut);
    const closing = Math.min(1, Math.max(0, (changed[blink] - opened) / (shut - opened)));
    others.forEach((column, i) => {
      const [least, most] = [bounds[at + 2 * i + 2], bounds[at + 2 * i + 3]];
      changed[column] = Math.max(Math.min(coefficients[column], 1 - closing * (1 - most)), closing * least);
    });
  });
  return changed;
}

/** What a branch's driver hears of its features, the weights it answers, and these as far as their limits let them. */
function answer(branch, features) {
  const { limits } = branch;
  const heard = limits.features(features);
  const asked = driven(branch, heard);
  return { heard, asked, given: limits.weights(asked) };
}

/** The weights of the bases as stored. */
function mixed({ mix, bases }, weights) {
  if (!mix) return weights;
  return Array.from({ length: bases }, (_, row) => weights.reduce((sum, w, k) => sum + mix[row * bases + k] * w, 0));
}

/** w(d) = L d + out (tanh(H d + b) - tanh(b)). */
function driven({ bases, linear, hidden, bias, out }, features) {
  const d = features.length;
  const active = new Float64Array(bias.length);
  for (let h = 0; h < bias.length; h++) {
    let sum = bias[h];
    for (let i = 0; i < d; i++) sum += hidden[h * d + i] * features[i];
    active[h] = Math.tanh(sum) - Math.tanh(bias[h]);
  }
  const weights = new Float64Array(bases);
  for (let k = 0; k < bases; k++) {
    let sum = 0;
    for (let i = 0; i < d; i++) sum += linear[k * d + i] * features[i];
    for (let h = 0; h < active.length; h++) sum += out[k * active.length + h] * active[h];
    weights[k] = sum;
  }
  return weights;
}

/** What keeps a branch near its clip's motion: functions of its driver's features and of the weights these give. */
function limitsOf(name, tensors, { feature_reach, weight_reach }) {
  const data = (key) => tensors[`limits.${name}.${key}`]?.data;
  const [bounds, middle, whitening] = [data("features"), data("middle"), data("whitening")];
  return {
    features: (values) => (bounds ? values.map((v, i) => softLimit(v, bounds[i], bounds[bounds.length / 2 + i], feature_reach)) : values),
    weights: (values) => (whitening ? together(values, middle, whitening, weight_reach) : values),
  };
}

/** Within low..high as it is; an excess e beyond becomes e r / (|e| + r) with r = reach (high - low). */
function softLimit(value, low, high, reach) {
  const room = reach * (high - low) + 1e-6; // a range without width is a bound, not a division by zero
  const inside = Math.min(Math.max(value, low), high);
  const excess = value - inside;
  return inside + (excess * room) / (Math.abs(excess) + room);
}

/** Weights near the ellipsoid that `whitening` makes a unit ball about `middle`: moved towards its middle. */
function together(weights, middle, whitening, reach) {
  const offset = weights.map((w, k) => w - middle[k]);
  const along = offset.map((_, row) => offset.reduce((sum, v, k) => sum + whitening[row * offset.length + k] * v, 0));
  const length = Math.max(1e-6, Math.hypot(...along));
  const share = softLimit(length, 0, 1, reach) / length;
  return weights.map((w, k) => w + offset[k] * (share - 1));
}
