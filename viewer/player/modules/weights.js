// From a driver (52 coefficients and two poses) to basis weights: avatar/model/motion.py.

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
    this.branches = manifest.layers.map(({ name, bases, features }) => ({
      name, bases, features,
      linear: data(`${name}.linear.weight`),
      hidden: data(`${name}.hidden.weight`),
      bias: data(`${name}.hidden.bias`),
      out: data(`${name}.out.weight`),
    }));
  }

  /** Basis weights of every branch (Float32Array each), for 52 coefficients and two 3x4 poses of 12 numbers. */
  weights(coefficients, head, torso) {
    const { coefficient_mean: mean, coefficient_std: std } = this.stats;
    const scaled = Array.from(coefficients, (c, i) => (c - mean[i]) / std[i]);
    const parts = {
      coefficients: scaled,
      mouth_coefficients: this.mouth.map((i) => scaled[i]),
      head_rotation: turn(rotationOf(head), rotationOf(this.stats.mean_head), this.unit),
      head_motion: shift(head, this.stats.mean_head, this.stats.head_std),
      torso_motion: [...turn(rotationOf(torso), rotationOf(this.stats.mean_torso), this.unit), ...shift(torso, this.stats.mean_torso, this.stats.torso_std)],
    };
    return this.branches.map((branch) => apply(branch, branch.features.flatMap((name) => parts[name])));
  }
}

/** w(d) = L d + out (tanh(H d + b) - tanh(b)). */
function apply({ bases, linear, hidden, bias, out }, features) {
  const d = features.length;
  const active = new Float64Array(bias.length);
  for (let h = 0; h < bias.length; h++) {
    let sum = bias[h];
    for (let i = 0; i < d; i++) sum += hidden[h * d + i] * features[i];
    active[h] = Math.tanh(sum) - Math.tanh(bias[h]);
  }
  const weights = new Float32Array(bases);
  for (let k = 0; k < bases; k++) {
    let sum = 0;
    for (let i = 0; i < d; i++) sum += linear[k * d + i] * features[i];
    for (let h = 0; h < active.length; h++) sum += out[k * active.length + h] * active[h];
    weights[k] = sum;
  }
  return weights;
}
