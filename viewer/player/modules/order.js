// Back end of the depth order: a worker that deforms positions and sorts, layer by layer, while the page draws.

import { PlayerError } from "./load.js";

/**
 * The worker's whole program; it is turned into text, so it uses nothing from outside.
 * In: {init: {branches: [{count, start, moves, means, positions, scale, skin}], near}}, then {weights, head, torso, id, buffer}.
 * `start` is the index of a branch's first Gaussian. Out: {order, id}: indices of the Gaussians, layers in order, each front to back.
 */
function orderWorker() {
  let branches;
  let near;
  let depths;
  let scratch;
  let keys;
  let moved;
  const HISTOGRAM = 2048; // 11 bits a pass, three passes for 32
  const histogram = new Uint32Array(HISTOGRAM);

  function start(init) {
    branches = init.branches;
    near = init.near;
    const largest = Math.max(...branches.map((b) => b.count));
    depths = new Float32Array(largest);
    keys = new Uint32Array(depths.buffer);
    moved = [0, 1, 2].map(() => new Float32Array(largest));
    scratch = [new Uint32Array(largest), new Uint32Array(largest)];
  }

  /** Camera depth of a branch's deformed, skinned Gaussians. */
  function measure(branch, weights, head, torso) {
    const { count, moves, means, positions, scale, skin } = branch;
    const n = count;
    const [x, y, z] = moved;
    moved.forEach((column, c) => column.set(means[c]));
    for (let k = 0; k < moves; k++) {
      if (weights[k] === 0) continue;
      const [wx, wy, wz] = [0, 1, 2].map((c) => weights[k] * scale[14 * k + c]);
      const from = 3 * n * k;
      for (let i = 0; i < n; i++) {
        x[i] += wx * positions[from + i];
        y[i] += wy * positions[from + n + i];
        z[i] += wz * positions[from + 2 * n + i];
      }
    }
    for (let i = 0; i < n; i++) {
      const s = skin[i];
      let depth = 0;
      depth += (torso[8] + s * (head[8] - torso[8])) * x[i];
      depth += (torso[9] + s * (head[9] - torso[9])) * y[i];
      depth += (torso[10] + s * (head[10] - torso[10])) * z[i];
      depth += torso[11] + s * (head[11] - torso[11]);
      depths[i] = depth > near ? depth : near; // what is behind the camera is not drawn; its place does not matter
    }
  }

  /** Stable radix sort by the bits of the depth: for positive floats they order as the numbers do. */
  function sortInto(order, offset, { count, start }) {
    let [from, to] = scratch;
    for (let i = 0; i < count; i++) from[i] = i;
    for (let shift = 0; shift < 33; shift += 11) {
      histogram.fill(0);
      for (let i = 0; i < count; i++) histogram[(keys[i] >>> shift) & (HISTOGRAM - 1)]++;
      let sum = 0;
      for (let b = 0; b < HISTOGRAM; b++) {
        const here = histogram[b];
        histogram[b] = sum;
        sum += here;
      }
      for (let i = 0; i < count; i++) to[histogram[(keys[from[i]] >>> shift) & (HISTOGRAM - 1)]++] = from[i];
      [from, to] = [to, from];
    }
    for (let i = 0; i < count; i++) order[offset + i] = from[i] + start;
  }

  self.onmessage = ({ data }) => {
    if (data.init) return start(data.init);
    const order = new Uint32Array(data.buffer);
    let offset = 0;
    branches.forEach((branch, b) => {
      measure(branch, data.weights[b], data.head, data.torso);
      sortInto(order, offset, branch);
      offset += branch.count;
    });
    self.postMessage({ order, id: data.id }, [order.buffer]);
  };
}

/** The page's end: asks for an order, one question at a time, and always has the newest answer. */
export class DepthOrder {
  constructor(branches, near) {
    this.count = branches.reduce((sum, b) => sum + b.count, 0);
    this.current = Uint32Array.from(branches.flatMap((b) => Array.from({ length: b.count }, (_, i) => b.start + i)));
    this.fresh = true;
    this.spare = new ArrayBuffer(4 * this.count);
    this.waiting = null;
    this.busy = false;
    this.id = 0;
    this.settled = new Map();
    const address = URL.createObjectURL(new Blob([`(${orderWorker})()`], { type: "text/javascript" }));
    this.worker = new Worker(address);
    URL.revokeObjectURL(address);
    this.worker.onmessage = ({ data }) => this.answered(data);
    this.worker.postMessage({ init: { branches, near } });
  }

  /** Asks for the order of a state; a question that finds the worker busy replaces the one that waits. */
  ask(weights, head, torso) {
    this.waiting = { weights, head, torso, id: ++this.id };
    if (!this.busy) this.send();
    return this.id;
  }

  /** Resolves once the order of this state, or of a later one, is there; rejects if it is closed before. */
  exactly(weights, head, torso) {
    const id = this.ask(weights, head, torso);
    return new Promise((resolve, reject) => this.settled.set(id, { resolve, reject }));
  }

  send() {
    const buffer = this.spare;
    this.busy = true;
    this.worker.postMessage({ ...this.waiting, buffer }, [buffer]);
    this.waiting = null;
  }

  answered({ order, id }) {
    this.spare = this.current.buffer;
    this.current = order;
    this.fresh = true;
    this.busy = false;
    for (const [asked, { resolve }] of this.settled) {
      if (asked <= id) {
        this.settled.delete(asked);
        resolve();
      }
    }
    if (this.waiting) this.send();
  }

  close() {
    this.worker.terminate();
    for (const { reject } of this.settled.values()) reject(new PlayerError("The avatar was taken away before it was drawn."));
    this.settled.clear();
  }
}
