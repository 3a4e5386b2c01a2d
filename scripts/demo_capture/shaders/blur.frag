// 4x4 box over the occlusion's dither cells, kept within a surface.
in vec2 v_uv;
uniform sampler2D labels;
uniform sampler2D occlusion;
out float out_visible;

void main() {
    vec2 texel = 1.0 / vec2(textureSize(occlusion, 0));
    float d = texture(labels, v_uv).y, sum = 0.0, weight = 0.0;
    for (int y = -2; y < 2; ++y)
        for (int x = -2; x < 2; ++x) {
            vec2 uv = v_uv + (vec2(x, y) + 0.5) * texel;
            float w = abs(texture(labels, uv).y - d) < 0.8 ? 1.0 : 0.02;
            sum += w * texture(occlusion, uv).r;
            weight += w;
        }
    out_visible = sum / weight;
}
