// The studio: a warm key from the upper left, a cool fill from the right, two rims from behind, and a soft dome.
uniform sampler2DShadow shadow_map;
uniform mat4 light_from_world;
uniform vec3 key_direction;     // towards the light
uniform sampler3D noise;        // gradient (xyz) and value (w) of a tileable noise, about unit variance

const vec3 KEY = vec3(1.0, 0.93, 0.85) * 2.75;
const vec3 FILL = vec3(0.70, 0.82, 1.0) * 0.48;
const vec3 FILL_DIRECTION = normalize(vec3(0.85, 0.12, 0.62));
const vec3 RIM = vec3(0.82, 0.90, 1.0) * 2.6;
const vec3 RIM_DIRECTION = normalize(vec3(0.88, 0.32, -0.52));
const vec3 RIM2 = vec3(1.0, 0.86, 0.70) * 1.3;
const vec3 RIM2_DIRECTION = normalize(vec3(-0.90, 0.30, -0.55));
const vec3 DOME_UP = vec3(0.50, 0.54, 0.60) * 0.50;
const vec3 DOME_DOWN = vec3(0.36, 0.29, 0.25) * 0.36;

const float EXPOSURE = 0.64;

float saturate(float x) { return clamp(x, 0.0, 1.0); }

// Interpolated normals may vanish where a fold of the mesh closes.
vec3 direction_of(vec3 v) { return v / max(length(v), 1e-5); }

// Share of the key light that arrives, 0..1; `spread` is the penumbra's half width in cm.
float key_visible(vec3 world, vec3 normal, float spread) {
    vec4 at = light_from_world * vec4(world + normal * 0.10, 1.0);
    vec3 uvz = at.xyz * 0.5 + 0.5;
    float texels = spread / 68.0;   // the map is 68 cm wide
    float sum = 0.0;
    for (int i = 0; i < PCF_SAMPLES; ++i) {
        float r = sqrt((float(i) + 0.5) / float(PCF_SAMPLES)), a = float(i) * 2.399963;
        sum += texture(shadow_map, vec3(uvz.xy + texels * r * vec2(cos(a), sin(a)), uvz.z - 0.0012));
    }
    return sum / float(PCF_SAMPLES);
}

float ggx(vec3 n, vec3 v, vec3 l, float rough, float f0) {
    vec3 h = normalize(v + l);
    float nl = saturate(dot(n, l)), nv = max(dot(n, v), 0.05), nh = saturate(dot(n, h)), vh = saturate(dot(v, h));
    float a2 = rough * rough * rough * rough, d = nh * nh * (a2 - 1.0) + 1.0;
    float k = rough * rough * 0.5;
    float g = 1.0 / ((nl * (1.0 - k) + k) * (nv * (1.0 - k) + k));
    float f = f0 + (1.0 - f0) * pow(1.0 - vh, 5.0);
    return nl * a2 / (3.14159 * d * d) * g * 0.25 * f;
}

vec3 dome(vec3 n) { return mix(DOME_DOWN, DOME_UP, n.y * 0.5 + 0.5); }

// Exposure and a filmic shoulder per channel; the result is linear 0..1.
vec3 film(vec3 c) {
    if (!(c.r >= 0.0 && c.g >= 0.0 && c.b >= 0.0)) c = vec3(0.0);
    c = min(c * EXPOSURE, vec3(50.0));
    return clamp((c * (2.51 * c + 0.03)) / (c * (2.43 * c + 0.59) + 0.14), 0.0, 1.0) * 0.6 + (1.0 - exp(-c * 1.25)) * 0.4;
}
