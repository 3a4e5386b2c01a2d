// Cotton shirt and wool jacket.
in vec3 v_world;
in vec3 v_normal;
in vec3 v_rest;
in vec4 v_paint;   // kind (see parts.py), position across the part
in vec4 v_paint2;  // -, -, -, baked ambient visibility
layout(location = 0) out vec4 out_colour;

void main() {
    vec3 n = direction_of(v_normal), view = normalize(-v_world);
    if (dot(n, view) < 0.0) n = -n;
    float kind = v_paint.x;
    bool wool = (kind > 0.5 && kind < 1.5) || (kind > 2.5 && kind < 3.5);
    vec4 weave = texture(noise, v_rest / 2.1), fold = texture(noise, v_rest * vec3(1.0, 0.45, 1.0) / 30.0);
    vec4 wrinkle = texture(noise, v_rest.zxy * vec3(0.6, 1.0, 0.5) / 17.0 + 0.2);
    vec3 bump = weave.xyz * (wool ? 0.10 : 0.035) + fold.xyz * (wool ? 0.07 : 0.11) + wrinkle.xyz * (wool ? 0.03 : 0.06);
    n = normalize(n - (bump - n * dot(bump, n)));
    vec3 base;
    if (wool) {
        // Fine herringbone: diagonals that change direction every 0.9 cm.
        float column = v_rest.x / 0.9, side = mod(floor(column), 2.0) * 2.0 - 1.0;
        float line = sin((v_rest.y * 1.0 + side * v_rest.x) * 12.0);
        base = vec3(0.017, 0.023, 0.040) * (1.0 + 0.16 * line + 0.14 * weave.w);
        // Where the sleeve is set in.
        float seam = abs(v_rest.x) - 17.6 - 0.030 * (v_rest.y + 26.0) * (v_rest.y + 26.0);
        if (kind < 1.5) base *= 1.0 - 0.55 * exp(-seam * seam / 0.018);
        if (kind > 2.5) base *= 1.0 - 0.35 * (smoothstep(0.90, 0.93, v_paint.y) - smoothstep(0.935, 0.96, v_paint.y));
    } else {
        base = vec3(0.60, 0.64, 0.68) * (1.0 + 0.02 * weave.w);
        if (kind > 1.5) base *= 1.0 - 0.16 * (smoothstep(0.88, 0.90, v_paint.y) - smoothstep(0.91, 0.93, v_paint.y));
    }
    float open = v_paint2.w * screen_occlusion();
    float lit = key_visible(v_world, n, 0.8);
    float wrap = 0.15;
    vec3 light = KEY * saturate((dot(n, key_direction) + wrap) / (1.0 + wrap)) * lit;
    light += FILL * saturate(dot(n, FILL_DIRECTION) * 0.7 + 0.3) * open + dome(n) * open;
    light += (RIM * saturate(dot(n, RIM_DIRECTION)) + RIM2 * saturate(dot(n, RIM2_DIRECTION))) * smoothstep(0.2, 0.9, open);
    vec3 colour = base * light;
    float edge = pow(1.0 - saturate(dot(n, view)), 3.0);
    colour += (wool ? vec3(0.055, 0.06, 0.075) : vec3(0.03)) * edge * (KEY * lit * 0.25 + dome(n) + RIM * 0.25 * saturate(n.x)) * open;
    if (wool) colour += KEY * ggx(n, view, key_direction, 0.7, 0.03) * lit * 0.6;
    out_colour = vec4(film(colour), 1.0);
}
