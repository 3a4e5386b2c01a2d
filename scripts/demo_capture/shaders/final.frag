// From the supersampled linear picture to the video's sRGB: tent filter, faint bloom, vignette, dither.
in vec2 v_uv;
uniform sampler2D picture;
uniform sampler2D bloom;
out vec4 out_colour;

vec3 srgb(vec3 c) { return mix(12.92 * c, 1.055 * pow(max(c, 1e-6), vec3(1.0 / 2.4)) - 0.055, step(0.0031308, c)); }

void main() {
    ivec2 at = ivec2(gl_FragCoord.xy) * 2;
    ivec2 top = textureSize(picture, 0) - 1;
    const float W[4] = float[](0.10, 0.40, 0.40, 0.10);
    vec3 sum = vec3(0.0);
    for (int y = 0; y < 4; ++y)
        for (int x = 0; x < 4; ++x)
            sum += W[x] * W[y] * texelFetch(picture, clamp(at + ivec2(x - 1, y - 1), ivec2(0), top), 0).rgb;
    sum += 0.035 * texture(bloom, v_uv).rgb;
    vec2 c = v_uv - 0.5;
    sum *= 1.0 - 0.42 * smoothstep(0.12, 0.62, dot(c, c) * 1.25);
    vec3 encoded = srgb(clamp(sum, 0.0, 1.0));
    float dither = fract(52.9829189 * fract(dot(floor(gl_FragCoord.xy), vec2(0.06711056, 0.00583715))));
    out_colour = vec4(encoded + (dither - 0.5) / 255.0, 1.0);
}
