// From a folder (or a page that carries it) to an avatar in memory: manifest, checks, tensors.
// The Python side of the format is avatar/export/payload.py and manifest.py.

const VERSION = 3;
const ARRAYS = { int8: Int8Array, int16: Int16Array, float32: Float32Array };

/** An error whose message is written for the person in front of the page. */
export class PlayerError extends Error {}

/** Files over HTTP, relative to the folder's address. */
export class FolderFiles {
  constructor(address) {
    const folder = address.endsWith(".json") ? address.slice(0, address.lastIndexOf("/") + 1) : `${address}/`;
    this.base = new URL(folder.replace(/\/+$/, "/") || "./", document.baseURI);
  }

  address(path) {
    return new URL(path, this.base).href;
  }

  async bytes(path) {
    let answer;
    try {
      answer = await fetch(this.address(path), { cache: "no-cache" });
    } catch {
      const local = this.base.protocol === "file:";
      throw new PlayerError(
        local
          ? "Browsers do not load a page's files from disk. Serve the folder (avatar play FOLDER), or export with --single-file."
          : `${path} cannot be fetched: the server does not answer.`,
      );
    }
    if (!answer.ok) throw new PlayerError(`${path} is missing (the server says ${answer.status}). Copy the whole folder.`);
    return new Uint8Array(await answer.arrayBuffer());
  }
}

/** Files that the page itself carries in <script data-file> elements, base64. */
export class PageFiles {
  address(path) {
    const type = path.endsWith("js") ? "text/javascript" : "application/octet-stream";
    return URL.createObjectURL(new Blob([this.read(path)], { type }));
  }

  read(path) {
    const element = document.querySelector(`script[data-file="${CSS.escape(path)}"]`);
    if (!element) throw new PlayerError(`${path} is missing in this page. Export it again.`);
    const text = atob(element.textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  async bytes(path) {
    const bytes = this.read(path);
    const packed = document.querySelector(`script[data-file="${CSS.escape(path)}"]`).dataset.packed === "deflate";
    return packed ? inflate(bytes, path) : bytes;
  }
}

/** Loads manifest, tensors and backdrop; `progress(share)` is called with 0..1. */
export async function loadAvatar(files, progress = () => {}) {
  const manifest = await readManifest(files);
  const needed = [...new Set(Object.values(manifest.tensors).map((t) => t.file)), "backdrop.png"];
  const total = needed.reduce((sum, path) => sum + declared(manifest, path).bytes, 0);
  let done = 0;
  const bodies = new Map();
  await Promise.all(
    needed.map(async (path) => {
      bodies.set(path, await checkedBytes(files, manifest, path));
      done += declared(manifest, path).bytes;
      progress(done / total);
    }),
  );
  const tensors = {};
  await Promise.all(
    Object.entries(manifest.tensors).map(async ([name, entry]) => {
      tensors[name] = await unpack(bodies.get(entry.file), entry, name);
    }),
  );
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const backdrop = await createImageBitmap(new Blob([bodies.get("backdrop.png")], { type: "image/png" }), options).catch(() => {
    throw new PlayerError("backdrop.png is damaged. Copy the folder again.");
  });
  return { manifest, tensors, backdrop, files };
}

async function readManifest(files) {
  const text = new TextDecoder().decode(await files.bytes("manifest.json"));
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch {
    throw new PlayerError("manifest.json is damaged: it is not JSON. Export the avatar again.");
  }
  if (manifest?.format !== "avatar-player") throw new PlayerError("manifest.json does not describe an avatar player.");
  if (!(manifest.version >= 1)) throw new PlayerError("manifest.json names no version. Export the avatar again.");
  if (manifest.version > VERSION) {
    throw new PlayerError(`This avatar has format ${manifest.version}, newer than this player's ${VERSION}. Use the player it came with.`);
  }
  return manifest;
}

function declared(manifest, path) {
  const entry = manifest.files?.[path];
  if (!entry) throw new PlayerError(`manifest.json does not declare ${path}. Export the avatar again.`);
  return entry;
}

/** A declared file, its length and (where the browser offers it: https and localhost) SHA-256 checked. */
export async function checkedBytes(files, manifest, path) {
  const { bytes: length, sha256 } = declared(manifest, path);
  const bytes = await files.bytes(path);
  if (bytes.length !== length) {
    throw new PlayerError(`${path} is damaged: ${bytes.length} bytes instead of ${length}. Copy the folder again.`);
  }
  if (globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const text = Array.from(digest, (b) => b.toString(16).padStart(2, "0")).join("");
    if (text !== sha256) throw new PlayerError(`${path} is damaged: its checksum differs. Copy the folder again.`);
  }
  return bytes;
}

async function inflate(bytes, name) {
  if (!globalThis.DecompressionStream) throw new PlayerError("This browser is too old to unpack the avatar (it lacks DecompressionStream). Update it.");
  try {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new PlayerError(`${name} is damaged: it cannot be unpacked. Copy the folder again.`);
  }
}

/** Byte planes back to an array; `shape` and, for integers, `scale` stay beside it. */
async function unpack(body, entry, name) {
  const planes = await inflate(body.subarray(entry.offset, entry.offset + entry.bytes), `${name} in ${entry.file}`);
  const size = ARRAYS[entry.type].BYTES_PER_ELEMENT;
  const count = entry.shape.reduce((a, b) => a * b, 1);
  if (planes.length !== count * size) throw new PlayerError(`${name} in ${entry.file} is damaged. Copy the folder again.`);
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < size; plane++) {
    const from = plane * count;
    for (let i = 0; i < count; i++) bytes[i * size + plane] = planes[from + i];
  }
  return { data: new ARRAYS[entry.type](bytes.buffer), shape: entry.shape };
}

/** A stored (C, N) tensor as C rows of float32, in its own units. */
export function columns(tensors, name) {
  const { data, shape } = tensors[name];
  const [rows, length] = shape;
  const scale = tensors[`${name}.scale`]?.data;
  const centre = tensors[`${name}.centre`]?.data;
  return Array.from({ length: rows }, (_, c) => {
    const row = new Float32Array(length);
    const s = scale ? scale[c] : 1;
    const m = centre ? centre[c] : 0;
    for (let i = 0; i < length; i++) row[i] = data[c * length + i] * s + m;
    return row;
  });
}
