// What the avatar does at a moment: rest, idle manner, the source that drives it, and what is set by hand, on top of
// each other. A state is {coefficients: 52, head, torso}; poses are offsets (rad, cm) from the person's neutral ones.

import { headRotation, multiply3, offsetFromPose, poseFrom, poseFromOffset, rotationFromVector, rotationOf } from "./geometry.js";
import { Manner } from "./manner.js";

const FADE_SECONDS = 0.3; // from one source to the next
const TURN_LIMIT = [0.5, 0.35, 0.5]; // yaw, pitch, roll by hand, rad: what a clip of talking usually shows

export class Stage {
  /** `refused(error)` is told of a callback that failed and was let go of. */
  constructor(avatar, refused = () => {}) {
    this.refused = refused;
    const { manifest, tensors } = avatar;
    this.manifest = manifest;
    this.names = manifest.coefficients;
    this.neutralHead = Array.from(tensors["person.neutral_head"].data).slice(0, 12);
    this.neutralTorso = Array.from(tensors["person.neutral_torso"].data).slice(0, 12);
    this.follows = tensors["person.torso_follows"].data;
    this.restPose = Object.fromEntries(
      [["head", this.neutralHead], ["torso", this.neutralTorso]].map(([name, neutral]) => [name, offsetFromPose(manifest.rest[`camera_from_${name}`].flat(), neutral)]),
    );
    this.restCoefficients = Array.from(tensors["features.coefficient_mean"].data);
    this.restMouth = manifest.driver.mouth_indices.map((i) => tensors["person.rest"].data[i]);
    this.manner = new Manner(avatar);
    this.mannerMotion = this.manner.advance(0);
    this.idle = true;
    this.gain = 1;
    this.source = null; // {mouth(time, gain)} of sound, or {at(time)} of a track
    this.callback = null;
    this.fixed = new Map(); // coefficient index -> value set by hand
    this.turn = [0, 0, 0]; // yaw, pitch, roll by hand
    this.slow = new Float64Array(6); // the head's slow motion, which the torso follows
    this.fade = null;
    this.shown = this.rest();
  }

  rest() {
    return { coefficients: this.restCoefficients.slice(), head: this.restPose.head.slice(), torso: this.restPose.torso.slice() };
  }

  /** The next source takes over smoothly from what is shown. */
  use(source) {
    this.source = source;
    this.fade = { from: this.shown, left: FADE_SECONDS };
  }

  set(values) {
    for (const [name, value] of Object.entries(values)) {
      const index = this.names.indexOf(name);
      if (index < 0) throw new RangeError(`There is no coefficient '${name}'; the names are ARKit's, for example jawOpen.`);
      if (value === null) this.fixed.delete(index);
      else if (!Number.isFinite(Number(value))) throw new RangeError(`${name} must be a number from 0 to 1.`);
      else this.fixed.set(index, Math.min(1, Math.max(0, Number(value))));
    }
  }

  turnTo(yaw = 0, pitch = 0, roll = 0) {
    const angles = [yaw, pitch, roll].map(Number);
    if (!angles.every(Number.isFinite)) throw new RangeError("Yaw, pitch and roll must be numbers, in rad.");
    this.turn = angles.map((a, i) => Math.min(TURN_LIMIT[i], Math.max(-TURN_LIMIT[i], a)));
  }

  /** Moves on by `seconds` and returns the state to draw; `time` is the source's, read once, as its clock runs on. */
  advance(seconds, time = this.source?.time ?? 0) {
    const state = this.rest();
    if (this.idle) this.addManner(state, seconds);
    if (this.source) this.addSource(state, seconds, time);
    if (this.callback) this.askCallback(state, seconds);
    for (const [index, value] of this.fixed) state.coefficients[index] = value;
    this.shown = this.faded(state, seconds);
    return this.shown;
  }

  addManner(state, seconds) {
    const motion = (this.mannerMotion = this.manner.advance(seconds));
    this.manifest.manner.face_indices.forEach((index, i) => (state.coefficients[index] = Math.min(1, Math.max(0, motion.face[i]))));
    this.manifest.driver.mouth_indices.forEach((index, i) => (state.coefficients[index] = this.restMouth[i]));
    state.head = motion.head;
    state.torso = motion.torso;
  }

  addSource(state, seconds, time) {
    if (this.source.mouth) {
      const mouth = this.source.mouth(time, this.gain);
      if (mouth) this.manifest.speech.coefficient_indices.forEach((index, i) => (state.coefficients[index] = mouth[i]));
      return;
    }
    const { coefficients, angles } = this.source.at(time);
    state.coefficients = coefficients;
    if (angles) this.addAngles(state, angles, seconds);
  }

  /** A callback that fails once would fail before every picture, and none would be drawn: it is not asked again. */
  askCallback(state, seconds) {
    try {
      this.addCallback(state, this.callback(performance.now() / 1000) ?? {}, seconds);
    } catch (error) {
      this.callback = null;
      this.refused(error);
    }
  }

  addCallback(state, given, seconds) {
    const list = given.coefficients ?? (given.head ? {} : given);
    const whole = Array.isArray(list) || ArrayBuffer.isView(list);
    if (whole && list.length !== this.names.length) throw new RangeError(`The callback gave ${list.length} coefficients instead of ${this.names.length}.`);
    if (given.head && given.head.length !== 3) throw new RangeError("The callback's head is not [yaw, pitch, roll].");
    for (const [key, value] of Object.entries(list)) {
      const index = whole ? Number(key) : this.names.indexOf(key);
      if (index >= 0 && Number.isFinite(value)) state.coefficients[index] = Math.min(1, Math.max(0, value));
    }
    if (given.head && Array.from(given.head).every(Number.isFinite)) this.addAngles(state, given.head, seconds);
  }

  /** Head yaw, pitch, roll (rad; 0 looks straight into the camera); the torso follows slowly. */
  addAngles(state, [yaw, pitch, roll], seconds) {
    const rest = this.manifest.rest.camera_from_head.flat();
    state.head = offsetFromPose(poseFrom(headRotation(yaw, pitch, roll), rest[3], rest[7], rest[11]), this.neutralHead);
    const share = 1 - Math.exp(-seconds / this.manifest.manner.torso_slow_seconds);
    for (let i = 0; i < 6; i++) this.slow[i] += share * (state.head[i] - this.slow[i]);
    state.torso = Array.from(this.slow, (v, i) => v * this.follows[i < 3 ? 0 : 1]);
  }

  faded(state, seconds) {
    if (!this.fade) return state;
    this.fade.left -= seconds;
    if (this.fade.left <= 0) {
      this.fade = null;
      return state;
    }
    const share = 1 - this.fade.left / FADE_SECONDS;
    const u = share * share * (3 - 2 * share);
    return Object.fromEntries(Object.entries(state).map(([key, list]) => [key, list.map((v, i) => v * u + this.fade.from[key][i] * (1 - u))]));
  }

  /** camera_from_head and camera_from_torso (12 numbers each) of a state, with the turn by hand. */
  poses(state) {
    const [yaw, pitch, roll] = this.turn;
    const turned = (pose, share) => {
      const turn = multiply3(multiply3(rotationFromVector(0, yaw * share, 0), rotationFromVector(pitch * share, 0, 0)), rotationFromVector(0, 0, roll * share));
      return poseFrom(multiply3(rotationOf(pose), turn), pose[3], pose[7], pose[11]);
    };
    return { head: turned(poseFromOffset(state.head, this.neutralHead), 1), torso: turned(poseFromOffset(state.torso, this.neutralTorso), this.follows[0]) };
  }
}
