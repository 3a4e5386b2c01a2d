// Poses as 12 numbers (row-major 3x4, target_from_source) and rotations, as in avatar/geometry.py.

/** camera_from_head rotation of a head that looks straight into the camera. */
const FACING = [1, 0, 0, 0, -1, 0, 0, 0, -1];

export function multiply3(a, b) {
  const out = new Array(9);
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 3; j++) out[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
  }
  return out;
}

export function transpose3(a) {
  return [a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8]];
}

export function rotationOf(pose) {
  return [pose[0], pose[1], pose[2], pose[4], pose[5], pose[6], pose[8], pose[9], pose[10]];
}

export function poseFrom(rotation, x, y, z) {
  const [a, b, c, d, e, f, g, h, i] = rotation;
  return [a, b, c, x, d, e, f, y, g, h, i, z];
}

/** Rotation matrix of a rotation vector (axis times angle, rad), by Rodrigues' formula. */
export function rotationFromVector(x, y, z) {
  const angle = Math.hypot(x, y, z);
  const s = angle < 1e-8 ? 1 : Math.sin(angle) / angle;
  const c = angle < 1e-8 ? 0.5 : (1 - Math.cos(angle)) / (angle * angle);
  return [
    1 - c * (y * y + z * z), c * x * y - s * z, c * x * z + s * y,
    c * x * y + s * z, 1 - c * (x * x + z * z), c * y * z - s * x,
    c * x * z - s * y, c * y * z + s * x, 1 - c * (x * x + y * y),
  ];
}

/** Rotation vector (rad, length 0..pi) of a rotation matrix, by way of its quaternion. */
export function vectorFromRotation(m) {
  const w = Math.sqrt(Math.max(0, 1 + m[0] + m[4] + m[8])) / 2;
  let x = Math.sqrt(Math.max(0, 1 + m[0] - m[4] - m[8])) / 2;
  let y = Math.sqrt(Math.max(0, 1 - m[0] + m[4] - m[8])) / 2;
  let z = Math.sqrt(Math.max(0, 1 - m[0] - m[4] + m[8])) / 2;
  if (m[7] < m[5]) x = -x;
  if (m[2] < m[6]) y = -y;
  if (m[3] < m[1]) z = -z;
  const sine = Math.hypot(x, y, z);
  const k = sine < 1e-8 ? 2 : (2 * Math.atan2(sine, w)) / sine;
  return [k * x, k * y, k * z];
}

/** camera_from_head rotation of yaw, pitch, roll (rad): FACING Ry(yaw) Rx(pitch) Rz(roll). */
export function headRotation(yaw, pitch, roll) {
  const [cy, sy, cp, sp, cr, sr] = [yaw, pitch, roll].flatMap((a) => [Math.cos(a), Math.sin(a)]);
  const turn = multiply3(multiply3([cy, 0, sy, 0, 1, 0, -sy, 0, cy], [1, 0, 0, 0, cp, -sp, 0, sp, cp]), [cr, -sr, 0, sr, cr, 0, 0, 0, 1]);
  return multiply3(FACING, turn);
}

/** A pose moved from `neutral` by an offset: rotation vector in camera axes (rad) and shift (cm). */
export function poseFromOffset(offset, neutral) {
  const rotation = multiply3(rotationFromVector(offset[0], offset[1], offset[2]), rotationOf(neutral));
  return poseFrom(rotation, neutral[3] + offset[3], neutral[7] + offset[4], neutral[11] + offset[5]);
}

/** The inverse of `poseFromOffset`. */
export function offsetFromPose(pose, neutral) {
  const vector = vectorFromRotation(multiply3(rotationOf(pose), transpose3(rotationOf(neutral))));
  return [...vector, pose[3] - neutral[3], pose[7] - neutral[7], pose[11] - neutral[11]];
}
