// WebGL2: textures made once, three passes a frame, nothing created while it runs.

import { columns, PlayerError } from "./load.js";
import { COMPOSE, projectShader, QUADS, quadShader, ROW, SCREEN, splatShader } from "./shaders.js";

/**
 * Where the branches' Gaussians lie: rows of ROW texels, each branch from a new row on. `moves` are all that move positions:
 * the bases, then the modes, which move nothing else.
 */
export function layout({ manifest, tensors }) {
  let row = 0;
  let firstBasis = 0;
  const branches = manifest.layers.map(({ name, gaussians: count, bases, modes = 0 }) => {
    const more = modes ? tensors[`${name}.modes`].data : [];
    const moves = bases + modes;
    const branch = {
      name, count, bases, moves, row, firstBasis,
      rows: Math.max(1, Math.ceil(count / ROW)),
      start: row * ROW,
      canonical: Object.fromEntries(["means", "quats", "log_scales", "colors", "opacity_logits", "skin"].map((key) => [key, columns(tensors, `${name}.${key}`)])),
      positions: joined(tensors[`${name}.bases.positions`].data, more),
      rest: tensors[`${name}.bases.rest`].data,
      scale: joined(tensors[`${name}.bases.scale`].data, new Float32Array(14 * modes)),
    };
    for (let m = 0; m < modes; m++) branch.scale.fill(tensors[`${name}.modes.scale`].data[m], 14 * (bases + m), 14 * (bases + m) + 3);
    row += branch.rows;
    firstBasis += moves;
    return branch;
  });
  return { branches, rows: row, bases: firstBasis, count: branches.reduce((sum, b) => sum + b.count, 0) };
}

function joined(first, second) {
  if (!second.length) return first;
  const whole = new first.constructor(first.length + second.length);
  whole.set(first);
  whole.set(second, first.length);
  return whole;
}

export class Renderer {
  constructor(canvas, avatar, scene) {
    this.canvas = canvas;
    this.avatar = avatar;
    this.scene = scene;
    this.raster = avatar.manifest.raster;
    const options = { alpha: true, premultipliedAlpha: true, antialias: false, depth: false, stencil: false, powerPreference: "high-performance" };
    this.gl = canvas.getContext("webgl2", options);
    if (!this.gl) {
      throw new PlayerError("This browser or device offers no WebGL2, which drawing the avatar needs. Update the browser, or switch on hardware acceleration in its settings.");
    }
    this.counters = { frames: 0, drawCalls: 0, textures: 0, buffers: 0, framebuffers: 0, programs: 0 };
    this.transparent = false;
    this.build();
  }

  build() {
    const { gl, scene } = this;
    if (!gl.getExtension("EXT_color_buffer_float")) {
      throw new PlayerError("This device cannot draw into floating-point textures (EXT_color_buffer_float), which the avatar needs.");
    }
    if (Math.max(...scene.branches.map((b) => Math.max(3 * b.bases, b.moves))) > gl.getParameter(gl.MAX_ARRAY_TEXTURE_LAYERS)) {
      throw new PlayerError("This avatar has more motion bases than this device has texture layers.");
    }
    this.whole = scene.branches[0].rest instanceof Int8Array;
    for (const key of ["textures", "buffers", "framebuffers", "programs"]) this.counters[key] = 0;
    gl.disable(gl.DITHER);
    gl.disable(gl.DEPTH_TEST);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.projectPass = this.program(SCREEN, projectShader(this.raster, this.whole));
    this.quadPass = this.program(quadShader(this.raster), splatShader(this.raster));
    this.composePass = this.program(SCREEN, COMPOSE);
    this.canonical = this.canonicalTexture();
    this.bases = scene.branches.map((branch) => this.basisTextures(branch));
    this.weightData = new Float32Array(scene.bases * 16);
    this.weights = this.texture(gl.TEXTURE_2D, () => gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA32F, 4, scene.bases));
    this.orderData = new Uint32Array(Math.ceil(scene.count / ROW) * ROW);
    this.order = this.texture(gl.TEXTURE_2D, () => gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R32UI, ROW, this.orderData.length / ROW));
    this.projected = [0, 1, 2].map(() => this.texture(gl.TEXTURE_2D, () => gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA32F, ROW, scene.rows)));
    this.projectTarget = this.target(this.projected);
    this.backdrop = this.backdropTexture();
    this.quads = this.quadIndices();
    this.light = null;
    this.lightTarget = null;
    this.lightSize = [0, 0];
  }

  /** Draws a state. `weights`: per branch; poses: 12 numbers; `order`: indices, or null where it has not changed. */
  draw(weights, head, torso, order) {
    const { gl, scene, canvas } = this;
    if (gl.isContextLost()) return;
    this.sizeLight(canvas.width, canvas.height);
    this.counters.drawCalls = 0;
    this.project(weights, head, torso);
    if (order) this.upload(order);
    this.blend(scene.count);
    this.compose();
    this.counters.frames++;
  }

  project(weights, head, torso) {
    const { gl, scene, projectPass: pass } = this;
    const camera = this.avatar.manifest.camera;
    scene.branches.forEach(({ moves, firstBasis, scale }, b) => {
      for (let k = 0; k < moves; k++) placeWeights(this.weightData, 16 * (firstBasis + k), weights[b][k], scale, 14 * k);
    });
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.projectTarget);
    gl.disable(gl.BLEND);
    gl.useProgram(pass.program);
    this.bind(0, gl.TEXTURE_2D, this.weights);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 4, scene.bases, gl.RGBA, gl.FLOAT, this.weightData);
    this.bind(1, gl.TEXTURE_2D_ARRAY, this.canonical);
    gl.uniform1i(pass.at.uWeights, 0);
    gl.uniform1i(pass.at.uCanonical, 1);
    gl.uniform1i(pass.at.uPositions, 2);
    gl.uniform1i(pass.at.uRest, 3);
    gl.uniform4fv(pass.at["uHead[0]"], head);
    gl.uniform4fv(pass.at["uTorso[0]"], torso);
    const across = this.canvas.width / camera.width;
    const focal = camera.focal_px * across;
    gl.uniform4f(pass.at.uCamera, focal, focal, camera.cx * across, (camera.cy * this.canvas.height) / camera.height);
    gl.uniform2f(pass.at.uSize, this.canvas.width, this.canvas.height);
    scene.branches.forEach((branch, b) => {
      this.bind(2, gl.TEXTURE_2D_ARRAY, this.bases[b].positions);
      this.bind(3, gl.TEXTURE_2D_ARRAY, this.bases[b].rest);
      gl.uniform1i(pass.at.uBases, branch.bases);
      // most pictures lie within the clip's own motion, where no mode moves
      gl.uniform1i(pass.at.uMoves, weights[b].subarray(branch.bases).some((w) => w !== 0) ? branch.moves : branch.bases);
      gl.uniform1i(pass.at.uFirstBasis, branch.firstBasis);
      gl.uniform1i(pass.at.uFirstRow, branch.row);
      gl.uniform1i(pass.at.uCount, branch.count);
      gl.viewport(0, branch.row, ROW, branch.rows);
      gl.drawArrays(gl.TRIANGLES, 0, 3);
      this.counters.drawCalls++;
    });
  }

  upload(order) {
    const { gl } = this;
    this.orderData.set(order);
    this.bind(0, gl.TEXTURE_2D, this.order);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ROW, this.orderData.length / ROW, gl.RED_INTEGER, gl.UNSIGNED_INT, this.orderData);
  }

  blend(total) {
    const { gl, quadPass: pass } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.lightTarget);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 1); // no light yet, full transmittance
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(pass.program);
    this.bind(0, gl.TEXTURE_2D, this.order);
    this.projected.forEach((texture, i) => this.bind(1 + i, gl.TEXTURE_2D, texture));
    gl.uniform1i(pass.at.uOrder, 0);
    gl.uniform1i(pass.at.uCentre, 1);
    gl.uniform1i(pass.at.uForm, 2);
    gl.uniform1i(pass.at.uColor, 3);
    gl.uniform1i(pass.at.uTotal, total);
    gl.uniform2f(pass.at.uSize, this.canvas.width, this.canvas.height);
    gl.enable(gl.BLEND);
    // light += transmittance * colour * alpha; transmittance *= 1 - alpha. Below transmittance_min the trainer stops;
    // here what follows adds less than that, 0.03 steps of 8 bits.
    gl.blendFuncSeparate(gl.DST_ALPHA, gl.ONE, gl.ZERO, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(this.quads);
    gl.drawElementsInstanced(gl.TRIANGLES, QUADS * 6, gl.UNSIGNED_SHORT, 0, Math.ceil(total / QUADS));
    gl.bindVertexArray(null);
    this.counters.drawCalls++;
  }

  compose() {
    const { gl, composePass: pass } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.disable(gl.BLEND);
    gl.useProgram(pass.program);
    this.bind(0, gl.TEXTURE_2D, this.light);
    this.bind(1, gl.TEXTURE_2D, this.backdrop);
    gl.uniform1i(pass.at.uLight, 0);
    gl.uniform1i(pass.at.uBackdrop, 1);
    gl.uniform1i(pass.at.uTransparent, this.transparent ? 1 : 0);
    gl.uniform2f(pass.at.uSize, this.canvas.width, this.canvas.height);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    this.counters.drawCalls++;
  }

  /** RGBA rows from the top of the picture just drawn; only in the same task as `draw`. */
  pixels() {
    const { gl, canvas } = this;
    const data = new Uint8Array(4 * canvas.width * canvas.height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, data);
    const stride = 4 * canvas.width;
    const out = new Uint8ClampedArray(data.length);
    for (let y = 0; y < canvas.height; y++) out.set(data.subarray(y * stride, (y + 1) * stride), (canvas.height - 1 - y) * stride);
    return out;
  }

  // --- what is made once

  program(vertex, fragment) {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [type, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
        throw new PlayerError(`This device's graphics driver refuses the avatar's shaders: ${gl.getShaderInfoLog(shader)}`);
      }
      gl.attachShader(program, shader);
      gl.deleteShader(shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
      throw new PlayerError(`This device's graphics driver refuses the avatar's shaders: ${gl.getProgramInfoLog(program)}`);
    }
    const at = {};
    const count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS) ?? 0;
    for (let i = 0; i < count; i++) {
      const { name } = gl.getActiveUniform(program, i);
      at[name] = gl.getUniformLocation(program, name);
    }
    this.counters.programs++;
    return { program, at };
  }

  texture(kind, allocate, filter = this.gl.NEAREST) {
    const { gl } = this;
    const texture = gl.createTexture();
    this.bind(0, kind, texture);
    allocate();
    gl.texParameteri(kind, gl.TEXTURE_MIN_FILTER, filter === gl.LINEAR ? gl.LINEAR_MIPMAP_LINEAR : filter);
    gl.texParameteri(kind, gl.TEXTURE_MAG_FILTER, filter);
    gl.texParameteri(kind, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(kind, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    this.counters.textures++;
    return texture;
  }

  bind(unit, kind, texture) {
    this.gl.activeTexture(this.gl.TEXTURE0 + unit);
    this.gl.bindTexture(kind, texture);
  }

  target(textures) {
    const { gl } = this;
    const target = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, target);
    textures.forEach((texture, i) => gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0));
    gl.drawBuffers(textures.map((_, i) => gl.COLOR_ATTACHMENT0 + i));
    this.counters.framebuffers++;
    return target;
  }

  canonicalTexture() {
    const { gl, scene } = this;
    const texels = scene.rows * ROW;
    const data = new Float32Array(texels * 16);
    for (const { start, count, canonical: c } of scene.branches) {
      const layers = [[...c.means, c.skin[0]], c.quats, [...c.log_scales, c.opacity_logits[0]], c.colors];
      layers.forEach((parts, layer) => interleave(data, 4 * (layer * texels + start), parts, 0, count));
    }
    return this.texture(gl.TEXTURE_2D_ARRAY, () => {
      gl.texStorage3D(gl.TEXTURE_2D_ARRAY, 1, gl.RGBA32F, ROW, scene.rows, 4);
      gl.texSubImage3D(gl.TEXTURE_2D_ARRAY, 0, 0, 0, 0, ROW, scene.rows, 4, gl.RGBA, gl.FLOAT, data);
    });
  }

  /** A branch's bases as stored: integers stay integers, which keeps a phone's memory and bandwidth small. */
  basisTextures({ count, rows, bases, moves, positions, rest }) {
    const { gl, whole } = this;
    const texels = rows * ROW;
    const column = (data, k, c, width) => data.subarray((k * width + c) * count, (k * width + c + 1) * count);
    const make = (source, stored, groups, width, format, type) => {
      const data = new source.constructor(texels * 4 * stored * groups.length);
      for (let k = 0; k < stored; k++) {
        groups.forEach((group, g) => interleave(data, 4 * texels * (k * groups.length + g), group.map((c) => column(source, k, c, width)), 0, count));
      }
      return this.texture(gl.TEXTURE_2D_ARRAY, () => {
        const layers = stored * groups.length;
        gl.texStorage3D(gl.TEXTURE_2D_ARRAY, 1, format, ROW, rows, layers);
        gl.texSubImage3D(gl.TEXTURE_2D_ARRAY, 0, 0, 0, 0, ROW, rows, layers, whole ? gl.RGBA_INTEGER : gl.RGBA, type, data);
      });
    };
    return {
      positions: make(positions, moves, [[0, 1, 2]], 3, whole ? gl.RGBA16I : gl.RGBA32F, whole ? gl.SHORT : gl.FLOAT),
      rest: make(rest, bases, [[0, 1, 2, 3], [4, 5, 6, 10], [7, 8, 9]], 11, whole ? gl.RGBA8I : gl.RGBA32F, whole ? gl.BYTE : gl.FLOAT),
    };
  }

  backdropTexture() {
    const { gl, avatar } = this;
    const { width, height } = avatar.backdrop;
    return this.texture(
      gl.TEXTURE_2D,
      () => {
        gl.texStorage2D(gl.TEXTURE_2D, 1 + Math.floor(Math.log2(Math.max(width, height))), gl.RGBA8, width, height);
        gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, gl.RGBA, gl.UNSIGNED_BYTE, avatar.backdrop);
        gl.generateMipmap(gl.TEXTURE_2D);
      },
      gl.LINEAR,
    );
  }

  quadIndices() {
    const { gl } = this;
    const vao = gl.createVertexArray();
    gl.bindVertexArray(vao);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    const indices = Uint16Array.from({ length: QUADS * 6 }, (_, i) => 4 * Math.floor(i / 6) + [0, 1, 2, 2, 1, 3][i % 6]);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
    gl.bindVertexArray(null);
    this.counters.buffers++;
    return vao;
  }

  /** The accumulation buffer follows the canvas. */
  sizeLight(width, height) {
    const { gl } = this;
    if (this.lightSize[0] === width && this.lightSize[1] === height) return;
    if (this.light) {
      gl.deleteFramebuffer(this.lightTarget);
      gl.deleteTexture(this.light);
      this.counters.textures--;
      this.counters.framebuffers--;
    }
    this.light = this.texture(gl.TEXTURE_2D, () => gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA16F, width, height));
    this.lightTarget = this.target([this.light]);
    this.lightSize = [width, height];
  }
}

/** One basis' weight times its 14 column scales, as four texels: position, quat, shape + opacity, colour. */
function placeWeights(out, to, weight, scale, from) {
  for (let c = 0; c < 3; c++) out[to + c] = weight * scale[from + c];
  for (let c = 0; c < 4; c++) out[to + 4 + c] = weight * scale[from + 3 + c];
  for (let c = 0; c < 3; c++) out[to + 8 + c] = weight * scale[from + 7 + c];
  out[to + 11] = weight * scale[from + 13];
  for (let c = 0; c < 3; c++) out[to + 12 + c] = weight * scale[from + 10 + c];
}

/** Columns as RGBA texels. */
function interleave(out, to, parts, from, count) {
  parts.forEach((part, c) => {
    for (let i = 0; i < count; i++) out[to + 4 * i + c] = part[from + i];
  });
}
