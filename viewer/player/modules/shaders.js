// GLSL of the three passes. The formulas are those of cuda_ext/include/avatar/projection.h and blending.h.

/** Texels per row of every texture that is indexed by Gaussian. */
export const ROW = 256;
/** Quads per instance: one instance per quad leaves most of a wave idle, in software 3 to 7 times slower. */
export const QUADS = 128;

const number = (value) => (Number.isInteger(value) ? value.toFixed(1) : String(value));

export const SCREEN = `#version 300 es
void main() {
  gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0);
}`;

/** Pass 1: one fragment per Gaussian blends the bases, skins, projects. */
export function projectShader(raster, whole) {
  const sampler = whole ? "isampler2DArray" : "sampler2DArray";
  return `#version 300 es
precision highp float;
precision highp int;
precision highp ${sampler};
uniform highp sampler2DArray uCanonical;  // mean + skin, quat, log scales + opacity logit, colour
uniform ${sampler} uPositions;            // a layer per basis, then one per mode
uniform ${sampler} uRest;                 // three layers per basis: quat, log scales + opacity logit, colour
uniform highp sampler2D uWeights;         // weight times scale: 4 texels per basis, a row each
uniform int uBases, uMoves, uFirstBasis, uFirstRow, uCount;
uniform vec4 uHead[3], uTorso[3];         // rows of camera_from_head and camera_from_torso
uniform vec4 uCamera;                     // fx, fy, cx, cy in px
uniform vec2 uSize;                       // px
layout(location = 0) out vec4 outCentre;  // x, y, depth, log2 opacity
layout(location = 1) out vec4 outForm;    // a, b, c of the exponent in base 2
layout(location = 2) out vec4 outColor;

const float NEAR = ${number(raster.near_cm)};
const float BLUR = ${number(raster.blur_px2)};
const float ALPHA_MIN = ${number(raster.alpha_min)};
const float MARGIN = ${number(raster.fov_margin)};
const float LOG2E = 1.4426950408889634;

mat3 rotation(vec4 q) {  // columns, from wxyz
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  ivec2 here = ivec2(at.x, at.y - uFirstRow);
  outCentre = vec4(0.0, 0.0, 0.0, -1e4);
  outForm = vec4(-1.0, 0.0, -1.0, 0.0);
  outColor = vec4(0.0);
  if (here.y * ${ROW} + here.x >= uCount) return;

  vec4 position = texelFetch(uCanonical, ivec3(at, 0), 0);
  vec4 quat = texelFetch(uCanonical, ivec3(at, 1), 0);
  vec4 shape = texelFetch(uCanonical, ivec3(at, 2), 0);
  vec4 color = texelFetch(uCanonical, ivec3(at, 3), 0);
  for (int k = 0; k < uBases; ++k) {
    int row = uFirstBasis + k;
    position.xyz += texelFetch(uWeights, ivec2(0, row), 0).xyz * vec3(texelFetch(uPositions, ivec3(here, k), 0).xyz);
    quat += texelFetch(uWeights, ivec2(1, row), 0) * vec4(texelFetch(uRest, ivec3(here, 3 * k), 0));
    shape += texelFetch(uWeights, ivec2(2, row), 0) * vec4(texelFetch(uRest, ivec3(here, 3 * k + 1), 0));
    color += texelFetch(uWeights, ivec2(3, row), 0) * vec4(texelFetch(uRest, ivec3(here, 3 * k + 2), 0));
  }
  for (int k = uBases; k < uMoves; ++k) {  // modes move positions alone
    position.xyz += texelFetch(uWeights, ivec2(0, uFirstBasis + k), 0).xyz * vec3(texelFetch(uPositions, ivec3(here, k), 0).xyz);
  }

  float skin = position.w;
  vec4 rows[3];
  for (int i = 0; i < 3; ++i) rows[i] = uTorso[i] + skin * (uHead[i] - uTorso[i]);
  vec4 point = vec4(position.xyz, 1.0);
  vec3 p = vec3(dot(rows[0], point), dot(rows[1], point), dot(rows[2], point));
  if (!(p.z > NEAR)) return;
  float inv = 1.0 / p.z;
  vec2 raw = uCamera.xy * p.xy * inv;
  vec2 uv = clamp(raw, -(uCamera.zw + MARGIN * uSize), (1.0 + MARGIN) * uSize - uCamera.zw);

  quat /= max(length(quat), ${number(raster.quat_eps)});
  vec3 scale = exp(clamp(shape.xyz, ${number(raster.log_scale_range[0])}, ${number(raster.log_scale_range[1])}));
  mat3 pose = transpose(mat3(rows[0].xyz, rows[1].xyz, rows[2].xyz));
  mat3 root = pose * rotation(quat);
  root[0] *= scale.x;
  root[1] *= scale.y;
  root[2] *= scale.z;
  mat3 across = transpose(root);  // columns are now the rows of A R S
  vec3 rowX = (uCamera.x * across[0] - uv.x * across[2]) * inv;
  vec3 rowY = (uCamera.y * across[1] - uv.y * across[2]) * inv;
  vec3 area = cross(rowX, rowY);
  float det = dot(area, area);  // Cauchy-Binet
  float varX = dot(rowX, rowX), varY = dot(rowY, rowY), cov = dot(rowX, rowY);
  float inverse = 1.0 / (det + BLUR * (varX + varY) + BLUR * BLUR);
  float opacity = sqrt(det * inverse) / (1.0 + exp(-shape.w));
  if (opacity < ALPHA_MIN) return;
  outCentre = vec4(raw + uCamera.zw, p.z, log2(opacity));
  outForm = vec4(-0.5 * LOG2E * (varY + BLUR) * inverse, LOG2E * cov * inverse, -0.5 * LOG2E * (varX + BLUR) * inverse, 1.0);
  outColor = vec4(color.rgb, 1.0);
}`;
}

/** Pass 2: quads around the ellipses where a splat can be seen, in depth order. Image rows run up the buffer. */
export function quadShader(raster) {
  return `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform highp usampler2D uOrder;
uniform highp sampler2D uCentre, uForm, uColor;
uniform int uTotal;
uniform vec2 uSize;
flat out vec4 vCentre;
flat out vec3 vForm, vColor;

const float LN2 = 0.6931471805599453;
const float LOG2_ALPHA_MIN = ${number(Math.log2(raster.alpha_min))};

void main() {
  int place = gl_InstanceID * ${QUADS} + (gl_VertexID >> 2);
  gl_Position = vec4(-2.0, -2.0, 0.0, 1.0);
  vCentre = vec4(0.0);
  vForm = vColor = vec3(0.0);
  if (place >= uTotal) return;
  int index = int(texelFetch(uOrder, ivec2(place % ${ROW}, place / ${ROW}), 0).r);
  ivec2 at = ivec2(index % ${ROW}, index / ${ROW});
  vCentre = texelFetch(uCentre, at, 0);
  float reach2 = 2.0 * LN2 * (vCentre.w - LOG2_ALPHA_MIN);
  if (reach2 <= 0.0) return;
  vForm = texelFetch(uForm, at, 0).xyz;
  vColor = texelFetch(uColor, at, 0).rgb;
  // axes of the ellipse: eigenvectors of the inverse covariance
  float a = -2.0 * LN2 * vForm.x, b = -LN2 * vForm.y, c = -2.0 * LN2 * vForm.z;
  float middle = 0.5 * (a + c), spread = length(vec2(0.5 * (a - c), b));
  float large = middle + spread, small = max((a * c - b * b) / large, 1e-9);
  float angle = 0.5 * atan(2.0 * b, a - c);
  vec2 axis = vec2(cos(angle), sin(angle));
  vec2 corner = vec2((gl_VertexID & 1) == 0 ? -1.0 : 1.0, (gl_VertexID & 2) == 0 ? -1.0 : 1.0);
  // a hair wider than the contour, for rounding: the fragments decide what is inside
  vec2 half_ = 1.001 * sqrt(reach2 / vec2(large, small)) + 0.01;
  vec2 px = vCentre.xy + corner.x * half_.x * axis + corner.y * half_.y * vec2(-axis.y, axis.x);
  gl_Position = vec4(2.0 * px / uSize - 1.0, 0.0, 1.0);
}`;
}

/** Fragments of pass 2: colour times alpha, and alpha; the blend function keeps the transmittance in the buffer. */
export function splatShader(raster) {
  return `#version 300 es
precision highp float;
flat in vec4 vCentre;
flat in vec3 vForm, vColor;
out vec4 outColor;
void main() {
  vec2 d = gl_FragCoord.xy - vCentre.xy;
  float alpha = min(exp2(vCentre.w + d.x * d.x * vForm.x + d.y * (d.x * vForm.y + d.y * vForm.z)), ${number(raster.alpha_max)});
  if (alpha < ${number(raster.alpha_min)}) discard;
  outColor = vec4(vColor * alpha, alpha);
}`;
}

/** Pass 3: over the backdrop, or premultiplied with nothing behind; image rows run down the canvas. */
export const COMPOSE = `#version 300 es
precision highp float;
uniform highp sampler2D uLight;
uniform highp sampler2D uBackdrop;
uniform vec2 uSize;
uniform bool uTransparent;
out vec4 outColor;
void main() {
  vec2 px = vec2(gl_FragCoord.x, uSize.y - gl_FragCoord.y);
  vec4 light = texelFetch(uLight, ivec2(px), 0);  // colour so far, transmittance
  vec3 behind = texture(uBackdrop, px / uSize).rgb;
  outColor = uTransparent ? vec4(clamp(light.rgb, 0.0, 1.0 - light.a), 1.0 - light.a) : vec4(clamp(light.rgb + light.a * behind, 0.0, 1.0), 1.0);
}`;
