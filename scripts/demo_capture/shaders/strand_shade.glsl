// Hair: two shifted highlights along the strand (Marschner's R and TRT as in Scheuermann 2004) over a soft diffuse.
// Run per vertex: strands are about a pixel wide, and there are fewer vertices than covered samples.
uniform vec3 hair_colour;
uniform float gloss;
uniform vec3 head_centre;

float lobe(vec3 t, vec3 v, vec3 l, float power) {
    float th = dot(t, normalize(v + l));
    return smoothstep(-1.0, 0.0, th) * pow(sqrt(max(1.0 - th * th, 1e-6)), power);
}

vec3 shade(vec3 world, vec3 t, float along, float random, float brightness) {
    vec3 view = normalize(-world);
    vec3 out_dir = normalize(world - head_centre);
    vec3 t1 = normalize(t + out_dir * (-0.12 + 0.14 * (random - 0.5)));
    vec3 t2 = normalize(t + out_dir * (0.16 + 0.14 * (random - 0.5)));
    vec3 base = hair_colour * brightness * mix(0.75, 1.25, along);
    float open = mix(0.30, 1.0, smoothstep(0.0, 0.6, along));
    float lit = key_visible(world, out_dir, 0.5);
    float kd = sqrt(max(1.0 - pow(dot(t, key_direction), 2.0), 0.0)) * saturate(dot(out_dir, key_direction) * 0.75 + 0.3);
    vec3 colour = base * (KEY * kd * lit * 0.9 + dome(out_dir) * open + FILL * saturate(dot(out_dir, FILL_DIRECTION) * 0.6 + 0.35) * open);
    vec3 r = vec3(1.0, 0.95, 0.9) * 0.055 * lobe(t1, view, key_direction, 70.0);
    vec3 trt = hair_colour * 3.2 * (0.4 + 0.9 * random) * 0.40 * lobe(t2, view, key_direction, 16.0);
    colour += gloss * (r + trt) * KEY * lit * saturate(dot(out_dir, key_direction) + 0.35);
    float back = saturate(dot(out_dir, RIM_DIRECTION) + 0.25), back2 = saturate(dot(out_dir, RIM2_DIRECTION) + 0.25);
    colour += gloss * RIM * back * (0.05 * lobe(t1, view, RIM_DIRECTION, 24.0) + hair_colour * 0.9 * lobe(t2, view, RIM_DIRECTION, 8.0)) * open;
    colour += gloss * RIM2 * back2 * (0.05 * lobe(t1, view, RIM2_DIRECTION, 24.0) + hair_colour * 0.9 * lobe(t2, view, RIM2_DIRECTION, 8.0)) * open;
    return film(colour);
}
