// Bright parts at low resolution, blurred: the bloom.
in vec2 v_uv;
uniform sampler2D source;
uniform vec2 direction;   // 0: threshold and shrink; else one pass of a Gaussian, in uv
out vec4 out_colour;

void main() {
    if (direction == vec2(0.0)) {
        vec3 c = vec3(0.0);
        vec2 texel = 1.0 / vec2(textureSize(source, 0));
        for (int y = 0; y < 4; ++y)
            for (int x = 0; x < 4; ++x) c += texture(source, v_uv + (vec2(x, y) - 1.5) * texel * 2.0).rgb;
        c /= 16.0;
        out_colour = vec4(c * smoothstep(0.35, 0.9, max(c.r, max(c.g, c.b))), 1.0);
        return;
    }
    vec3 sum = vec3(0.0);
    float total = 0.0;
    for (int i = -6; i <= 6; ++i) {
        float w = exp(-float(i * i) / 14.0);
        sum += w * texture(source, v_uv + direction * float(i)).rgb;
        total += w;
    }
    out_colour = vec4(sum / total, 1.0);
}
