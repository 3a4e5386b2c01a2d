// Screen-space ambient obscurance from the distance picture (the "Alchemy" estimator, McGuire et al. 2011).
in vec2 v_uv;
uniform sampler2D labels;      // label, distance
uniform float focal;           // pixels of the full-size label picture / its width
uniform float radius;          // cm
out float out_visible;

vec3 at(vec2 uv) {
    float d = texture(labels, uv).y;
    return vec3((uv - 0.5) * d / focal, -d);
}

void main() {
    vec3 p = at(v_uv);
    if (-p.z > 900.0) { out_visible = 1.0; return; }
    vec2 texel = 1.0 / vec2(textureSize(labels, 0));
    vec3 right = at(v_uv + vec2(texel.x, 0)) - p, left = p - at(v_uv - vec2(texel.x, 0));
    vec3 up = at(v_uv + vec2(0, texel.y)) - p, down = p - at(v_uv - vec2(0, texel.y));
    vec3 dx = abs(right.z) < abs(left.z) ? right : left;
    vec3 dy = abs(up.z) < abs(down.z) ? up : down;
    vec3 n = normalize(cross(dx, dy));
    ivec2 cell = ivec2(gl_FragCoord.xy) & 3;
    float turn = float(cell.x * 4 + cell.y) * 0.3926991;
    float reach = radius * focal / -p.z;
    float sum = 0.0;
    const int COUNT = 14;
    for (int i = 0; i < COUNT; ++i) {
        float f = (float(i) + 0.5) / float(COUNT);
        float a = turn + float(i) * 2.399963;
        vec3 v = at(v_uv + reach * f * vec2(cos(a), sin(a))) - p;
        float vv = dot(v, v);
        float near = max(1.0 - vv / (radius * radius * 2.0), 0.0);
        sum += near * max(dot(v, n) - 0.035 - 0.0004 * -p.z * 0.2, 0.0) / (vv + 0.02);
    }
    out_visible = clamp(1.0 - 0.85 * sum / float(COUNT) * radius, 0.0, 1.0);
}
