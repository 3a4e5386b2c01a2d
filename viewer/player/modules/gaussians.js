// The deformed, skinned Gaussians as arrays, for other renderers (three.js with Spark, see README.md).

/**
 * Every Gaussian of a state in three.js axes: x right, y up, z towards the viewer, cm, the camera at the origin.
 * `weights`: per branch; `head`, `torso`: poses of 12 numbers. Layers follow each other: face, mouth, torso.
 */
export function gaussiansOf(scene, weights, head, torso) {
  const out = {
    count: scene.count,
    layers: scene.branches.map((b) => b.count),
    centers: new Float32Array(3 * scene.count),
    scales: new Float32Array(3 * scene.count), // standard deviations
    quaternions: new Float32Array(4 * scene.count), // xyzw
    colors: new Float32Array(3 * scene.count), // sRGB-encoded
    opacities: new Float32Array(scene.count),
  };
  const turns = [quaternionOf(torso), quaternionOf(head)];
  let from = 0;
  scene.branches.forEach((branch, b) => {
    const moved = deformed(branch, weights[b]);
    for (let i = 0; i < branch.count; i++) place(out, from + i, moved, i, head, torso, turns);
    from += branch.count;
  });
  return out;
}

/** The 14 columns of a branch and its skin, moved by basis weights. */
function deformed(branch, weights) {
  const { canonical: c, positions, rest, scale, bases, moves, count } = branch;
  const parts = [...c.means, ...c.quats, ...c.log_scales, ...c.colors, ...c.opacity_logits].map((part) => part.slice());
  for (let k = 0; k < moves; k++) {
    if (weights[k] === 0) continue;
    parts.slice(0, k < bases ? parts.length : 3).forEach((part, column) => {
      const [source, at] = column < 3 ? [positions, 3 * k + column] : [rest, 11 * k + column - 3];
      const w = weights[k] * scale[14 * k + column];
      for (let i = 0; i < count; i++) part[i] += w * source[at * count + i];
    });
  }
  return { parts, skin: c.skin[0] };
}

function place(out, to, { parts, skin }, i, head, torso, turns) {
  const [x, y, z] = [parts[0][i], parts[1][i], parts[2][i]];
  const s = skin[i];
  const row = (r) => {
    const mix = (j) => torso[4 * r + j] + s * (head[4 * r + j] - torso[4 * r + j]);
    return mix(0) * x + mix(1) * y + mix(2) * z + mix(3);
  };
  out.centers.set([row(0), -row(1), -row(2)], 3 * to);
  for (let c = 0; c < 3; c++) {
    out.scales[3 * to + c] = Math.exp(Math.min(8, Math.max(-20, parts[7 + c][i])));
    out.colors[3 * to + c] = Math.min(1, Math.max(0, parts[10 + c][i]));
  }
  out.opacities[to] = 1 / (1 + Math.exp(-parts[13][i]));
  const pose = turns[0].map((v, c) => v + s * (turns[1][c] - v)); // both turns are close: a chord is as good as the arc
  const own = [parts[3][i], parts[4][i], parts[5][i], parts[6][i]];
  const [w, a, b, c] = unit(product(unit(pose), unit(own)));
  out.quaternions.set([a, b, c, w], 4 * to);
}

/** wxyz of a pose's rotation in three.js axes: half a turn about x takes OpenCV's axes there. */
function quaternionOf(m) {
  const r = [[m[0], m[1], m[2]], [-m[4], -m[5], -m[6]], [-m[8], -m[9], -m[10]]];
  const w = Math.sqrt(Math.max(0, 1 + r[0][0] + r[1][1] + r[2][2])) / 2;
  const x = Math.sqrt(Math.max(0, 1 + r[0][0] - r[1][1] - r[2][2])) / 2;
  const y = Math.sqrt(Math.max(0, 1 - r[0][0] + r[1][1] - r[2][2])) / 2;
  const z = Math.sqrt(Math.max(0, 1 - r[0][0] - r[1][1] + r[2][2])) / 2;
  return [w, r[2][1] < r[1][2] ? -x : x, r[0][2] < r[2][0] ? -y : y, r[1][0] < r[0][1] ? -z : z];
}

function unit(q) {
  const length = Math.hypot(...q) || 1;
  return q.map((v) => v / length);
}

function product([a, b, c, d], [e, f, g, h]) {
  return [a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g, a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e];
}
