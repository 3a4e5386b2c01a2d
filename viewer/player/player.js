// <avatar-player src="FOLDER">: a talking avatar as a web component. README.md documents it for those who embed it.

import { Drivers } from "./modules/weights.js";
import { gaussiansOf } from "./modules/gaussians.js";
import { FolderFiles, loadAvatar, PageFiles, PlayerError } from "./modules/load.js";
import { DepthOrder } from "./modules/order.js";
import { layout, Renderer } from "./modules/render.js";
import { Microphone, SoundFile } from "./modules/sound.js";
import { SpeechModel } from "./modules/speech.js";
import { Stage } from "./modules/stage.js";
import { parseTrack } from "./modules/track.js";

const LARGEST_PX = 1024; // side of the picture unless `resolution` says otherwise
const SLOW_FRAME_SECONDS = 1 / 28; // slower than this on average, and the picture is drawn smaller
const SMALLEST_SHARE = 0.35;
const DRAG_RADIANS = 1.2; // head turn of a drag across the whole picture
const KEY_RADIANS = 0.06;
const RETURN_SECONDS = 0.35; // in which the head comes back after a drag

const STYLE = `
:host { display: block; position: relative; overflow: hidden; touch-action: pan-y; outline-offset: 2px; }
canvas { display: block; width: 100%; height: 100%; object-fit: contain; }
p { position: absolute; inset: 0; margin: 0; padding: 1.5em; display: grid; place-content: center; text-align: center;
    font: 1rem/1.5 system-ui, sans-serif; color: #eee; background: #20242c; white-space: pre-wrap; overflow: auto; }
p[hidden] { display: none; }
`;

/** A track under its own clock. */
class TrackClock {
  constructor(track, loop) {
    this.track = track;
    this.loop = loop;
    this.place = 0;
    this.began = null;
  }

  get duration() {
    return this.track.duration;
  }

  get playing() {
    return this.began !== null;
  }

  get time() {
    const time = this.playing ? performance.now() / 1000 - this.began : this.place;
    return this.loop && this.duration > 0 ? time % this.duration : Math.min(this.duration, time);
  }

  get ended() {
    return this.playing && !this.loop && this.time >= this.duration;
  }

  at(time) {
    return this.track.at(time);
  }

  async play() {
    if (!this.playing) this.began = performance.now() / 1000 - this.place;
  }

  pause() {
    this.place = this.time;
    this.began = null;
  }

  seek(time) {
    this.place = Math.min(this.duration, Math.max(0, time));
    if (this.playing) this.began = performance.now() / 1000 - this.place;
  }

  close() {
    this.pause();
  }
}

export class AvatarPlayer extends HTMLElement {
  static observedAttributes = ["src", "transparent", "idle", "resolution", "listen"];

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.innerHTML = `<style>${STYLE}</style><canvas part="canvas"></canvas><p part="message" hidden></p>`;
    this.canvas = root.querySelector("canvas");
    this.message = root.querySelector("p");
    this.share = 1;
    this.visible = true;
    this.frames = 0;
    this.motionFrames = 0;
    this.exact = 0; // pictures that wait for their own depth order
    this.wishes = 0; // counts what was asked for, so that what takes long to open knows whether it is still wanted
    this.tick = this.tick.bind(this);
    this.heard = this.heard.bind(this);
    this.newPromise();
    this.watchSize = new ResizeObserver(() => this.resize());
    this.watchPlace = new IntersectionObserver(([entry]) => (this.visible = entry.isIntersecting));
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.calmed = () => this.applyIdle();
    for (const type of ["pointerdown", "pointermove", "pointerup", "pointercancel", "dblclick", "keydown"]) this.addEventListener(type, (event) => this.handled(event));
    this.watchContext();
  }

  /** The graphics card may be taken away (driver update, too many pages) and given back. */
  watchContext() {
    this.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.dispatch("contextlost");
    });
    this.canvas.addEventListener("webglcontextrestored", () => {
      if (!this.renderer) return;
      this.renderer.build();
      this.changed = this.order.fresh = true;
      this.dispatch("contextrestored");
    });
  }

  // --- life of the element

  connectedCallback() {
    if (!this.hasAttribute("tabindex")) this.tabIndex = 0;
    if (!this.hasAttribute("role")) this.setAttribute("role", "img");
    this.watchSize.observe(this);
    this.watchPlace.observe(this);
    this.calm.addEventListener("change", this.calmed);
    window.addEventListener("message", this.heard);
    if (this.hasAttribute("src") && !this.avatar && !this.loading) this.load(this.getAttribute("src"));
    this.last = performance.now();
    this.request ??= requestAnimationFrame(this.tick);
  }

  disconnectedCallback() {
    cancelAnimationFrame(this.request);
    this.request = null;
    this.stop();
    this.watchSize.disconnect();
    this.watchPlace.disconnect();
    this.calm.removeEventListener("change", this.calmed);
    window.removeEventListener("message", this.heard);
    setTimeout(() => this.isConnected || this.release()); // unless it only moves to another place of the page
  }

  /** Gives back the worker, the sound device and the graphics card's memory; put into a page again, it loads again. */
  release() {
    this.wishes++;
    this.exact = 0;
    this.order?.close();
    this.context?.close();
    this.renderer?.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.avatar = this.stage = this.order = this.renderer = this.context = this.model = this.loading = this.rewound = null;
    this.canvas.replaceWith((this.canvas = this.canvas.cloneNode()));
    this.watchContext();
    this.newPromise();
  }

  attributeChangedCallback(name, before, after) {
    if (name === "src" && this.isConnected && after !== null && after !== before) this.load(after);
    if (name === "transparent" && this.renderer) this.renderer.transparent = after !== null;
    if (name === "idle") this.applyIdle();
    if (name === "resolution") this.resize();
    this.changed = true;
  }

  newPromise() {
    /** Resolves once the avatar is drawn, rejects with a readable error. */
    this.ready = new Promise((resolve, reject) => Object.assign(this, { resolveReady: resolve, rejectReady: reject }));
    this.ready.catch(() => {});
  }

  /** Loads the avatar in a folder (address of the folder or of its manifest), or of this page ("page:"). */
  async load(src) {
    if (this.avatar || this.failed) {
      this.stop();
      this.release();
    }
    this.failed = null;
    const mine = (this.loading = {});
    this.say("Loading…");
    try {
      const files = src === "page:" ? new PageFiles() : new FolderFiles(src);
      const avatar = await loadAvatar(files, (share) => this.loading === mine && this.say(`Loading… ${Math.round(100 * share)} %`));
      if (this.loading !== mine) return;
      this.begin(avatar);
      await this.draw(this.stage.shown);
      this.say("");
      this.loading = null;
      this.resolveReady(this);
      this.dispatch("ready");
    } catch (error) {
      if (this.loading === mine) this.fail(error);
    }
  }

  begin(avatar) {
    const scene = layout(avatar);
    this.resize(avatar.manifest.camera);
    this.renderer = new Renderer(this.canvas, avatar, scene);
    this.renderer.transparent = this.hasAttribute("transparent");
    this.scene = scene;
    this.drivers = new Drivers(avatar);
    this.order = new DepthOrder(
      scene.branches.map((b) => ({ count: b.count, start: b.start, moves: b.moves, means: b.canonical.means, positions: b.positions, scale: b.scale, skin: b.canonical.skin[0] })),
      avatar.manifest.raster.near_cm,
    );
    this.stage = new Stage(avatar, (error) => {
      console.error(error);
      queueMicrotask(() => this.complain(error)); // after the picture: who hears of it may change everything
    });
    this.avatar = avatar;
    this.applyIdle();
    if (!this.hasAttribute("aria-label")) this.setAttribute("aria-label", `Talking avatar ${avatar.manifest.name}`);
  }

  fail(error) {
    this.loading = null;
    this.failed = error;
    const known = error instanceof PlayerError;
    if (!known) console.error(error);
    this.say(known ? error.message : `The avatar cannot be shown: ${error.message}`);
    this.rejectReady(error);
    this.dispatch("error", { message: this.message.textContent, error });
  }

  say(text) {
    this.message.textContent = text;
    this.message.hidden = !text;
    this.message.setAttribute("role", this.failed ? "alert" : "status");
  }

  dispatch(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  complain(error) {
    this.dispatch("error", { message: error?.message ?? String(error), error });
  }

  // --- what it may be told

  get manifest() {
    return this.avatar?.manifest ?? null;
  }

  /** The 52 names, in order. */
  get names() {
    return this.manifest?.coefficients ?? [];
  }

  /** What is shown now: {name: value}. */
  get coefficients() {
    return this.stage ? Object.fromEntries(this.names.map((name, i) => [name, this.stage.shown.coefficients[i]])) : {};
  }

  /** Fixes coefficients ({jawOpen: 0.5}); null lets go of one. */
  set(values) {
    this.need().set(values);
  }

  /** Lets go of all coefficients set by hand and of the head's turn. */
  reset() {
    this.need().fixed.clear();
    this.stage.turnTo(0, 0, 0);
    this.returning = null;
    this.dispatch("reset");
  }

  /** Turns the head by hand: yaw towards image right, pitch down, roll, rad, added to its motion. */
  turn(yaw = 0, pitch = 0, roll = 0) {
    this.need().turnTo(yaw, pitch, roll);
  }

  /** `callback(seconds)` is asked before every picture for {coefficients, head: [yaw, pitch, roll]}; null ends it. */
  drive(callback) {
    if (callback !== null && typeof callback !== "function") throw new TypeError("drive takes a function, or null to end it.");
    this.need().callback = callback;
  }

  get gain() {
    return this.stage?.gain ?? 1;
  }

  /** How far speech moves the mouth, 0..3; 1 is the person's own. */
  set gain(value) {
    this.need().gain = Math.min(3, Math.max(0, finite(value, "gain")));
  }

  get idle() {
    return this.stage?.idle ?? false;
  }

  /** Blinks, glances and head motion in the person's manner. */
  set idle(on) {
    this.setAttribute("idle", on ? "on" : "off");
  }

  applyIdle() {
    if (!this.stage) return;
    const wish = this.getAttribute("idle");
    const on = wish === "off" ? false : wish === "on" || !this.calm.matches;
    if (on !== this.stage.idle) this.stage.use(this.stage.source);
    this.stage.idle = on;
  }

  /** Plays a motion track: the text of a Live Link Face CSV or JSON, or a parsed JSON. */
  async playTrack(content, { loop = false } = {}) {
    const track = parseTrack(content, this.need().names, this.manifest.timecode_rates);
    await this.take(new TrackClock(track, loop), ++this.wishes);
  }

  /** Speaks a sound file: its address, a File or Blob, or its bytes. */
  async playSound(sound) {
    this.need();
    const wish = ++this.wishes;
    const context = this.sounding();
    const model = await this.speechModel();
    const bytes = sound instanceof ArrayBuffer ? sound : await (sound instanceof Blob ? sound : await fetched(sound)).arrayBuffer();
    await this.take(await SoundFile.open(model, bytes, context), wish);
  }

  /** Says what the microphone hears, until `stop`. */
  async useMicrophone() {
    this.need();
    const wish = ++this.wishes;
    const context = this.sounding();
    const model = await this.speechModel();
    await this.take(await Microphone.open(model, context), wish);
  }

  sounding() {
    this.context ??= new AudioContext({ latencyHint: "interactive" });
    return this.context;
  }

  async speechModel() {
    this.model ??= SpeechModel.load(this.avatar);
    try {
      return await this.model;
    } catch (error) {
      this.model = null;
      throw error;
    }
  }

  /** Plays what has been opened, unless something else was asked for meanwhile. */
  async take(source, wish) {
    if (wish !== this.wishes) return source.close();
    this.stop();
    this.stage.use(source);
    await this.start(source);
  }

  async start(source) {
    await source.play();
    if (this.source === source && source.playing) this.dispatch("play");
  }

  /** The sound, microphone or track that moves it, or that has come to its end and can be played again; or null. */
  get source() {
    return this.stage?.source ?? this.rewound ?? null;
  }

  get playing() {
    return this.source?.playing ?? false;
  }

  get time() {
    return this.source?.time ?? 0;
  }

  get duration() {
    return this.source?.duration ?? 0;
  }

  async play() {
    const { source } = this;
    if (!source) return;
    if (source === this.rewound) this.stage.use(source);
    this.rewound = null;
    await this.start(source);
  }

  pause() {
    this.source?.pause();
    if (this.source) this.dispatch("pause");
  }

  seek(time) {
    const seconds = finite(time, "time");
    this.source?.seek(seconds);
  }

  /** Lets go of the source (sound, microphone or track) and goes back to idle. */
  stop() {
    this.wishes++;
    const { source } = this;
    if (!source) return;
    source.close();
    this.rewound = null;
    this.stage.use(null);
    this.dispatch("ended");
  }

  /** At the end of a sound or track: idle again, and ready to play it once more. */
  finish() {
    const { source } = this;
    source.pause();
    source.seek(0);
    this.stage.use(null);
    this.rewound = source;
    this.dispatch("ended");
  }

  /** The Gaussians as they are now, in three.js axes; see README.md. */
  gaussians() {
    const { head, torso } = this.need().poses(this.stage.shown);
    return gaussiansOf(this.scene, this.drivers.weights(this.stage.shown.coefficients, head, torso), head, torso);
  }

  /** A PNG of what is shown. */
  async snapshot() {
    await this.draw(this.need().shown);
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  }

  /** Frames drawn, draw calls of the last one, and objects held on the graphics card. */
  get stats() {
    return { ...this.renderer?.counters, motionFrames: this.motionFrames, share: this.share };
  }

  need() {
    if (!this.stage) throw new PlayerError("The avatar is not loaded yet: await player.ready.");
    return this.stage;
  }

  // --- drawing

  resize(camera = this.manifest?.camera) {
    if (!camera) return;
    const fixed = Number(this.getAttribute("resolution"));
    const box = this.getBoundingClientRect();
    const fit = Math.min(box.width, (box.height * camera.width) / camera.height) * devicePixelRatio * this.share;
    const width = Math.max(16, Math.round(fixed > 0 ? Math.min(fixed, 4096) : Math.min(fit || camera.width, LARGEST_PX)));
    const height = Math.round((width * camera.height) / camera.width);
    if (width === this.canvas.width && height === this.canvas.height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.changed = true;
  }

  /** Draws a state with its own exact depth order; resolves when it is on the canvas, rejects if the avatar is let go of before. */
  async draw(state) {
    const { order } = this;
    const { head, torso } = state.poses ?? this.stage.poses(state);
    const weights = this.drivers.weights(state.coefficients, head, torso);
    this.exact++; // meanwhile `tick` asks for no other order
    try {
      await order.exactly(weights, head, torso);
      if (this.order === order) this.renderer.draw(weights, head, torso, order.current);
    } finally {
      if (this.order === order) this.exact--; // another avatar counts from 0
      this.lastKey = null;
    }
  }

  tick(now) {
    this.request = requestAnimationFrame(this.tick);
    const seconds = Math.min(0.25, (now - this.last) / 1000);
    this.last = now;
    if (!this.stage || this.loading || this.exact || !this.visible) return;
    this.comeBack(seconds);
    const { source } = this;
    if (source?.failed) {
      this.stop();
      this.fail(source.failed);
      return;
    }
    const { time } = this; // of the sound or track that this picture shows
    const state = this.stage.advance(seconds, time);
    const { head, torso } = this.stage.poses(state);
    const key = [...state.coefficients, ...head, ...torso].join();
    const moved = key !== this.lastKey;
    if (moved || this.changed || this.order.fresh) {
      const weights = this.drivers.weights(state.coefficients, head, torso);
      if (moved) this.order.ask(weights, head, torso);
      this.renderer.draw(weights, head, torso, this.order.fresh ? this.order.current : null);
      this.order.fresh = this.changed = false;
      this.lastKey = key;
      this.motionFrames += moved ? 1 : 0;
      this.dispatch("frame", { time });
      this.watchPace(seconds);
    }
    if (source?.ended && this.source === source) this.finish();
  }

  /** Draws smaller pictures where large ones come too slowly. */
  watchPace(seconds) {
    this.pace = 0.95 * (this.pace ?? 1 / 60) + 0.05 * seconds;
    this.paced = (this.paced ?? 0) + 1;
    if (this.paced < 40 || this.pace < SLOW_FRAME_SECONDS || this.hasAttribute("resolution") || this.share <= SMALLEST_SHARE) return;
    this.share = Math.max(SMALLEST_SHARE, 0.8 * this.share);
    this.paced = 0;
    this.resize();
  }

  // --- hands and other pages

  handled(event) {
    if (!this.stage) return;
    if (event.type === "keydown") this.pressed(event);
    else if (event.type === "dblclick") this.reset();
    else if (event.type === "pointerdown" && event.isPrimary && event.button === 0) {
      this.grip = { x: event.clientX, y: event.clientY, turn: this.stage.turn };
      this.setPointerCapture(event.pointerId);
    } else if (event.type === "pointermove" && this.grip && event.isPrimary) {
      const scale = DRAG_RADIANS / Math.max(1, this.clientWidth);
      this.returning = null;
      this.stage.turnTo(this.grip.turn[0] + (event.clientX - this.grip.x) * scale, this.grip.turn[1] + (event.clientY - this.grip.y) * scale);
    } else if (event.type === "pointerup" || event.type === "pointercancel") {
      if (this.grip) this.returning = RETURN_SECONDS;
      this.grip = null;
    }
  }

  pressed(event) {
    const steps = { ArrowLeft: [-KEY_RADIANS, 0], ArrowRight: [KEY_RADIANS, 0], ArrowUp: [0, -KEY_RADIANS], ArrowDown: [0, KEY_RADIANS] };
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in steps) {
      const [yaw, pitch] = this.stage.turn;
      this.stage.turnTo(yaw + steps[event.key][0], pitch + steps[event.key][1]);
    } else if (event.key === " " && this.source) {
      if (this.playing) this.pause();
      else this.play();
    } else if (event.key === "Home") this.reset();
    else if (event.key === "Escape") this.stop();
    else return;
    event.preventDefault();
  }

  comeBack(seconds) {
    if (!this.returning) return;
    const share = this.calm.matches ? 1 : Math.min(1, seconds / this.returning);
    this.stage.turnTo(...this.stage.turn.map((a) => a * (1 - share)));
    this.returning = share === 1 ? null : Math.max(this.returning - seconds, 1e-3);
  }

  /** Messages of other windows: only from the origins in the attribute `listen` ("*" is any). */
  heard({ data, origin }) {
    const allowed = (this.getAttribute("listen") ?? "").split(/\s+/).filter(Boolean);
    if (data?.type !== "avatar" || !this.stage || !(allowed.includes("*") || allowed.includes(origin))) return;
    try {
      if (data.coefficients) this.set(Array.isArray(data.coefficients) ? Object.fromEntries(data.coefficients.map((v, i) => [this.names[i], v])) : data.coefficients);
      if (data.head) this.turn(...data.head);
      if (data.track) this.playTrack(data.track, { loop: Boolean(data.loop) }).catch((error) => this.complain(error));
      if (["play", "pause", "stop", "reset"].includes(data.command)) this[data.command]();
    } catch (error) {
      this.complain(error);
    }
  }
}

function finite(value, name) {
  if (!Number.isFinite(Number(value))) throw new RangeError(`The ${name} must be a number.`);
  return Number(value);
}

async function fetched(address) {
  const answer = await fetch(address).catch(() => null);
  if (!answer?.ok) throw new PlayerError(`The sound ${address} cannot be fetched.`);
  return answer;
}

if (!customElements.get("avatar-player")) customElements.define("avatar-player", AvatarPlayer);
