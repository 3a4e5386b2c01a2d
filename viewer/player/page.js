// The page around the avatar: files, microphone, scrubber, sliders. Everything it does, it does through the component.

import { AvatarPlayer } from "./player.js";

const REGIONS = { Brows: /^brow/, Eyes: /^eye/, "Cheeks and nose": /^(cheek|nose)/, Jaw: /^jaw/, Mouth: /^(mouth|tongue)/ };

const element = (id) => document.getElementById(id);
const player = element("avatar");
const sliders = new Map();
let seeking = false;

function notice(text) {
  element("notice").textContent = text;
  element("notice").hidden = !text;
  clearTimeout(notice.timer);
  if (text) notice.timer = setTimeout(() => notice(""), 8000);
}

/** Runs something a button asks for; what goes wrong is said on the page. */
async function attempt(action) {
  notice("");
  try {
    await action();
  } catch (error) {
    notice(error.message);
  }
  reflect();
}

async function open(file) {
  if (!file) return;
  if (/\.(csv|json)$/i.test(file.name)) await player.playTrack(await file.text());
  else await player.playSound(file);
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Controls show what is going on. */
function reflect() {
  const finite = Number.isFinite(player.duration) && player.duration > 0;
  const live = player.duration === Infinity;
  element("play").disabled = !finite;
  element("play").textContent = player.playing && finite ? "Pause" : "Play";
  element("place").disabled = !finite;
  element("microphone").setAttribute("aria-pressed", String(live));
  element("microphone").textContent = live ? "Stop listening" : "Microphone";
  if (finite && !seeking) element("place").value = player.time / player.duration;
  element("clock").textContent = finite ? `${clock(player.time)} / ${clock(player.duration)}` : live ? "listening" : "0:00";
  element("idle").checked = player.idle;
}

function buildSliders() {
  element("regions").replaceChildren();
  for (const [title, pattern] of Object.entries(REGIONS)) {
    const heading = document.createElement("h3");
    heading.textContent = title;
    element("regions").append(heading);
    for (const name of player.names.filter((n) => pattern.test(n))) element("regions").append(slider(name));
  }
}

function slider(name) {
  const row = document.createElement("label");
  row.className = "slider";
  const text = document.createElement("span");
  text.textContent = name;
  const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 1, step: 0.01, value: 0 });
  input.addEventListener("input", () => {
    player.set({ [name]: Number(input.value) });
    row.classList.add("set");
  });
  row.title = "Double-click lets go of it";
  row.addEventListener("dblclick", () => release([name]));
  row.append(text, input);
  sliders.set(name, { row, input });
  return row;
}

function release(names) {
  player.set(Object.fromEntries(names.map((name) => [name, null])));
  for (const name of names) sliders.get(name).row.classList.remove("set");
}

/** Sliders that nobody holds follow what is shown. */
function followSliders() {
  if (element("panel").hidden) return;
  const shown = player.coefficients;
  for (const [name, { row, input }] of sliders) if (!row.classList.contains("set")) input.value = shown[name];
}

function describe() {
  const { manifest } = player;
  const { provenance } = manifest;
  const facts = {
    Name: manifest.name, "Made from": provenance.source_name, "Hash of the clip": provenance.source_sha256, Made: provenance.created,
    With: manifest.tool, Gaussians: manifest.layers.map((l) => `${l.name} ${l.gaussians}`).join(", "), Consent: provenance.consent, Licence: manifest.license,
  };
  element("about").replaceChildren(
    ...Object.entries(facts).flatMap(([key, value]) => [["dt", key], ["dd", value]].map(([tag, text]) => Object.assign(document.createElement(tag), { textContent: text }))),
  );
  document.title = manifest.name;
}

function connect() {
  element("file").addEventListener("change", ({ target }) => attempt(() => open(target.files[0])).then(() => (target.value = "")));
  element("microphone").addEventListener("click", () => attempt(() => (player.duration === Infinity ? player.stop() : player.useMicrophone())));
  element("play").addEventListener("click", () => attempt(() => (player.playing ? player.pause() : player.play())));
  element("place").addEventListener("input", ({ target }) => {
    seeking = true;
    player.seek(Number(target.value) * player.duration);
  });
  element("place").addEventListener("change", () => (seeking = false));
  element("idle").addEventListener("change", ({ target }) => (player.idle = target.checked));
  element("backdrop").addEventListener("change", ({ target }) => {
    player.toggleAttribute("transparent", !target.checked);
    player.classList.toggle("clear", !target.checked);
  });
  element("gain").addEventListener("input", ({ target }) => (player.gain = target.value));
  element("sliders").addEventListener("click", ({ currentTarget }) => {
    element("panel").hidden = !element("panel").hidden;
    currentTarget.setAttribute("aria-expanded", String(!element("panel").hidden));
  });
  element("release").addEventListener("click", () => player.reset());
  player.addEventListener("reset", () => release([...sliders.keys()])); // by whatever hand: keys and double-clicks too
  element("picture").addEventListener("click", () => attempt(async () => {
    const link = Object.assign(document.createElement("a"), { download: `${player.manifest.name}.png` });
    link.href = URL.createObjectURL(await player.snapshot());
    link.click();
    URL.revokeObjectURL(link.href);
  }));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    element("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => (element("drop").hidden = event.relatedTarget === null));
  addEventListener("drop", (event) => {
    event.preventDefault();
    element("drop").hidden = true;
    attempt(() => open(event.dataTransfer.files[0]));
  });
}

if (!(player instanceof AvatarPlayer)) notice("This browser knows no web components.");
const options = new URLSearchParams(location.search);
for (const name of ["transparent", "idle", "resolution", "listen"]) if (options.has(name)) player.setAttribute(name, options.get(name));
if (options.has("transparent")) {
  document.documentElement.classList.add("clear");
  element("backdrop").checked = false;
}
if (options.has("bare")) document.querySelector("nav").hidden = true;
for (const button of document.querySelectorAll("nav button, nav input")) button.disabled = true;
player.addEventListener("error", ({ detail }) => notice(detail.message));
player.ready.then(
  () => {
    for (const button of document.querySelectorAll("nav button, nav input")) button.disabled = false;
    buildSliders();
    describe();
    connect();
    reflect();
    setInterval(() => {
      reflect();
      followSliders();
    }, 100);
  },
  () => notice(""), // the component itself says what is wrong
);
