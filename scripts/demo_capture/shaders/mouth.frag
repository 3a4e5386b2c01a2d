// Teeth, gums and tongue: wet, and darker the deeper they lie.
in vec3 v_world;
in vec3 v_normal;
in vec3 v_rest;
in vec4 v_paint;   // 0 tooth, 1 gum, 2 tongue; height from the biting edge; tint; nearness to the next tooth
layout(location = 0) out vec4 out_colour;

void main() {
    vec3 n = direction_of(v_normal), view = normalize(-v_world);
    if (dot(n, view) < 0.0) n = -n;
    float gum = step(0.5, v_paint.x) * step(v_paint.x, 1.5), tongue = step(1.5, v_paint.x);
    vec4 fine = texture(noise, v_rest / 1.6), coarse = texture(noise, v_rest / 4.0);
    n = normalize(n - fine.xyz * (0.02 + 0.05 * gum + 0.10 * tongue));
    vec3 tooth = mix(vec3(0.80, 0.70, 0.56), vec3(0.66, 0.52, 0.35), smoothstep(0.35, 1.0, v_paint.y));
    tooth = mix(tooth, vec3(0.70, 0.64, 0.55), smoothstep(0.16, 0.0, v_paint.y) * 0.5) * (0.93 + 0.09 * v_paint.z);
    vec3 base = mix(tooth, vec3(0.42, 0.145, 0.135) * (1.0 + 0.12 * coarse.w), gum);
    base = mix(base, vec3(0.42, 0.150, 0.135) * (1.0 + 0.10 * fine.w + 0.1 * coarse.w), tongue);

    float depth = smoothstep(0.0, 7.7, v_rest.z);
    float open = screen_occlusion() * (0.20 + 0.80 * depth * depth);
    open *= 1.0 - 0.6 * (1.0 - gum) * smoothstep(0.72, 1.0, v_paint.w);
    float lit = key_visible(v_world, n, 0.45);
    float wrap = 0.35;
    float diffuse = saturate((dot(n, key_direction) + wrap) / (1.0 + wrap));
    vec3 light = KEY * diffuse * lit * (0.25 + 0.75 * depth) * (1.0 - 0.5 * (1.0 - gum) * smoothstep(0.72, 1.0, v_paint.w));
    light += (dome(n) * 1.15 + FILL * saturate(dot(n, FILL_DIRECTION) * 0.6 + 0.4) * 0.7) * open;
    light += vec3(0.10, 0.03, 0.02) * open;  // bounce from the red around
    vec3 colour = base * light;
    float wet = mix(mix(0.30, 0.26, gum), 0.38, tongue);
    colour += KEY * ggx(n, view, key_direction, wet, 0.04) * lit * depth * 0.9;
    colour += FILL * ggx(n, view, FILL_DIRECTION, wet, 0.04) * open * 0.8;
    out_colour = vec4(film(colour), 1.0);
}
