// Skin: painted albedo, pores, wrapped diffuse whose red reaches furthest into the shadow, two specular lobes.
in vec3 v_world;
in vec3 v_normal;
in vec3 v_rest;
in vec4 v_paint;   // lips, blush, beard, scalp
in vec4 v_paint2;  // around the eyes, inside of the mouth, ear, baked ambient visibility
layout(location = 0) out vec4 out_colour;

void main() {
    vec3 geometric = direction_of(v_normal);
    vec3 view = normalize(-v_world);
    float lips = v_paint.x, inside = v_paint2.y;

    vec4 pores = texture(noise, v_rest / 2.3), creases = texture(noise, v_rest.yzx / 5.1 + 0.3);
    vec4 patches = texture(noise, v_rest.zxy / 13.0), wide = texture(noise, v_rest / 34.0 + 0.6);
    vec3 bump = pores.xyz * (0.075 + 0.05 * v_paint.y) + creases.xyz * 0.035;
    bump = mix(bump, texture(noise, v_rest * vec3(1.0, 0.22, 0.3) / 1.5).xyz * 0.12, lips);
    vec3 n = normalize(geometric - (bump - geometric * dot(bump, geometric)) * (1.0 - 0.7 * v_paint.w));

    // Colour
    vec3 base = vec3(0.560, 0.315, 0.205);
    base *= 1.0 + 0.045 * patches.w + 0.035 * wide.w + 0.04 * pores.w;
    base = mix(base, base * vec3(1.10, 0.78, 0.72), saturate(v_paint.y * (0.75 + 0.2 * patches.w)));
    base = mix(base, base * vec3(0.80, 0.70, 0.72), v_paint2.x * 0.65);
    base = mix(base, vec3(0.56, 0.24, 0.17), v_paint2.z * 0.45);
    float freckle = smoothstep(2.1, 2.7, texture(noise, v_rest / 7.3 + 0.17).w);
    base *= 1.0 - 0.22 * freckle;
    float stubble = v_paint.z * (0.52 + 0.38 * clamp(texture(noise, v_rest / 1.35 + 0.5).w, -1.2, 1.2));
    base = mix(base, base * vec3(0.50, 0.53, 0.60), saturate(stubble) * 0.62);
    base = mix(base, vec3(0.055, 0.036, 0.026), v_paint.w * 0.93);
    base = mix(base, vec3(0.430, 0.165, 0.135) * (1.0 + 0.07 * pores.w), lips * 0.85);
    base = mix(base, vec3(0.26, 0.06, 0.05), inside);

    float baked = v_paint2.w;
    float open = baked * mix(1.0, screen_occlusion(), 0.85);
    open = max(open, 0.40 * inside);
    vec3 open_rgb = pow(vec3(open), vec3(0.75, 1.0, 1.12));  // light that bounces between skin comes out red

    // Diffuse: soft normal for red, bumpy for blue; terminator bleeds red.
    vec3 nl = vec3(dot(normalize(geometric + 0.4 * (n - geometric)), key_direction), 0.0, dot(n, key_direction));
    nl.y = 0.5 * (nl.x + nl.z);
    vec3 wrap = vec3(0.30, 0.14, 0.09) * (1.0 - inside);
    vec3 diffuse = clamp((nl + wrap) / (1.0 + wrap), 0.0, 1.0);
    diffuse = pow(diffuse, vec3(1.25, 1.12, 1.08));
    float lit = key_visible(v_world, geometric, 0.55);
    vec3 lit_rgb = vec3(pow(lit, 0.70), lit, pow(lit, 1.12));
    vec3 light = KEY * diffuse * lit_rgb * mix(1.0, 0.25 * open, inside);
    float soft = saturate(dot(geometric, FILL_DIRECTION) * 0.7 + 0.3);
    light += FILL * soft * open_rgb;
    light += dome(n) * open_rgb;
    float rim_open = smoothstep(0.15, 0.8, open) * (1.0 - inside);
    light += RIM * vec3(1.0, 0.85, 0.8) * saturate(dot(geometric, RIM_DIRECTION) * 0.85 + 0.05) * rim_open;
    light += RIM2 * saturate(dot(geometric, RIM2_DIRECTION)) * rim_open;
    // Thin ears let the rim lights through.
    light += v_paint2.z * vec3(0.9, 0.16, 0.07) * (0.55 * saturate(-dot(geometric, RIM_DIRECTION)) + 0.3) * 0.5;
    vec3 colour = base * light + inside * vec3(0.020, 0.005, 0.004);

    // Specular: a broad lobe and a tight oily one, strongest on lips, nose and forehead.
    float oil = mix(0.75 + 0.35 * v_paint.y + 0.18 * pores.w, 1.6, lips) * (1.0 - 0.85 * v_paint.w) * (1.0 - 0.35 * v_paint.z);
    oil = mix(oil, 0.8, inside);
    float tight = mix(0.36, 0.30, lips);
    float gloss = 0.62 * ggx(n, view, key_direction, 0.52, 0.030) + 0.38 * ggx(n, view, key_direction, tight, 0.030);
    vec3 shine = KEY * gloss * lit * mix(1.0, open * 0.3, inside);
    vec3 calm = normalize(mix(geometric, n, 0.35));  // grazing light would make every pore sparkle
    shine += 0.6 * (RIM * ggx(calm, view, RIM_DIRECTION, 0.5, 0.028) + RIM2 * ggx(calm, view, RIM2_DIRECTION, 0.5, 0.028)) * rim_open;
    shine += FILL * ggx(n, view, FILL_DIRECTION, 0.5, 0.028) * open;
    float edge = pow(1.0 - saturate(dot(n, view)), 5.0);
    shine += dome(reflect(-view, n)) * (0.022 + 0.25 * edge) * open * open;
    colour += shine * oil * 1.35;
    out_colour = vec4(film(colour), 1.0);
}
