// A painted studio canvas: mottled pigment, a weave, and a pool of light behind the person.
in vec2 v_uv;
uniform sampler3D noise;
layout(location = 0) out vec4 out_colour;

float clamp01(float x) { return clamp(x, 0.0, 1.0); }

void main() {
    vec3 p = vec3(v_uv * 1.0, 0.13);
    float clouds = 0.0, weight = 0.5;
    for (int i = 0; i < 5; ++i) {
        clouds += weight * texture(noise, p * 0.11 * exp2(float(i)) + float(i) * 0.37).w;
        weight *= 0.56;
    }
    float strokes = texture(noise, vec3(v_uv * mat2(0.8, -0.6, 0.6, 0.8) * vec2(0.9, 0.16), 0.7)).w;
    float weave = sin(v_uv.x * 1024.0 * 0.9) * sin(v_uv.y * 1024.0 * 0.9);
    vec3 dark = vec3(0.030, 0.048, 0.055), light = vec3(0.155, 0.190, 0.185);
    vec3 warm = vec3(0.20, 0.165, 0.125);
    float pool = exp(-dot((v_uv - vec2(0.60, 0.60)) * vec2(1.5, 1.25), (v_uv - vec2(0.60, 0.60)) * vec2(1.5, 1.25)) * 3.2);
    vec3 colour = mix(dark, light, pool);
    colour = mix(colour, warm * (0.35 + pool), clamp01(0.32 + 0.25 * clouds) * 0.55);
    colour *= 1.0 + 0.20 * clouds + 0.07 * strokes + 0.012 * weave;
    out_colour = vec4(clamp(colour * 0.9, 0.0, 1.0), 1.0);
}
