// Eyeball: sclera with faint veins, refracted iris with radial fibres, and a clear cornea that mirrors the softboxes.
in vec3 v_world;
in vec3 v_normal;
in vec3 v_rest;   // eye space, cm, looks along +z
uniform mat3 eye_from_world;
uniform float eye_radius;
uniform float iris_angle;
layout(location = 0) out vec4 out_colour;

float softbox(vec3 r, vec3 direction, vec2 half_size, float blur) {
    vec3 side = normalize(cross(vec3(0, 1, 0), direction)), up = cross(direction, side);
    float front = dot(r, direction);
    if (front <= 0.0) return 0.0;
    vec2 q = abs(vec2(dot(r, side), dot(r, up)) / front) - half_size;
    return (1.0 - smoothstep(-blur, blur, q.x)) * (1.0 - smoothstep(-blur, blur, q.y));
}

void main() {
    vec3 n = direction_of(v_normal), view = normalize(-v_world);
    vec3 p = direction_of(v_rest);
    vec3 local_view = eye_from_world * view;
    vec2 behind = p.xy - local_view.xy / max(local_view.z, 0.35) * 0.075 * smoothstep(0.55, 0.2, length(p.xy));
    float rim = sin(iris_angle);
    float r = length(behind) / rim;
    float turn = atan(behind.y, behind.x);

    vec3 sclera = vec3(0.66, 0.61, 0.57);
    float away = length(p.xy);
    vec4 vein = texture(noise, vec3(p.xy * 1.7, 0.3) + 0.1);
    sclera = mix(sclera, vec3(0.56, 0.30, 0.25), saturate(smoothstep(0.5, 0.95, away) * 0.75));
    sclera = mix(sclera, vec3(0.60, 0.25, 0.22), smoothstep(0.9, 0.0, abs(vein.w)) * 0.16 * smoothstep(0.42, 0.8, away));

    float fibre = texture(noise, vec3(cos(turn), sin(turn), 0.0) * 0.9 + vec3(0, 0, r * 0.07)).w;
    fibre = fibre * 0.6 + 0.4 * texture(noise, vec3(cos(turn), sin(turn), 0.4) * 2.1 + vec3(0, 0, r * 0.1)).w;
    vec3 iris = mix(vec3(0.20, 0.105, 0.040), vec3(0.085, 0.115, 0.095), smoothstep(0.40, 0.78, r + 0.08 * fibre));
    iris *= 1.0 + 0.42 * fibre;
    iris *= 1.0 - 0.80 * smoothstep(0.78, 1.0, r);
    float pupil = smoothstep(0.335, 0.385, r);
    iris *= pupil;
    float in_iris = 1.0 - smoothstep(0.93, 1.05, r);
    vec3 base = mix(sclera, iris, in_iris);

    float open = pow(screen_occlusion(), 1.3);
    float lit = key_visible(v_world, n, 0.35);
    vec3 soft_n = normalize(n + 0.25 * view);
    float diffuse = saturate((dot(soft_n, key_direction) + 0.25) / 1.25);
    // The iris is a dish: the side away from the light is the brighter one.
    vec3 in_eye = eye_from_world * key_direction;
    float caustic = 1.0 + in_iris * 0.9 * dot(normalize(behind + 1e-4), -normalize(in_eye.xy)) * smoothstep(0.2, 0.9, r);
    vec3 light = KEY * diffuse * mix(0.12, 1.0, lit) * caustic;
    light += (dome(n) * 1.25 + FILL * saturate(dot(n, FILL_DIRECTION) * 0.6 + 0.4)) * open;
    vec3 colour = base * light * mix(0.35, 1.0, open);

    vec3 reflected = reflect(-view, n);
    float fresnel = 0.035 + 0.965 * pow(1.0 - saturate(dot(n, view)), 5.0);
    float keybox = softbox(reflected, key_direction, vec2(0.20, 0.26), 0.03);
    float fillbox = softbox(reflected, FILL_DIRECTION, vec2(0.16, 0.42), 0.08);
    colour += fresnel * (vec3(1.0, 0.96, 0.90) * keybox * 26.0 * mix(0.35, 1.0, lit) + FILL * fillbox * 6.0 * open);
    colour += fresnel * dome(reflected) * 1.2 * open;
    out_colour = vec4(film(colour), 1.0);
}
