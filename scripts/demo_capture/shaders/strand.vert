// Strands as ribbons that face the viewer (the camera, or the light in the shadow pass).
in vec3 in_position;
in vec3 in_tangent;
in vec4 in_strand;  // signed half width (cm), position along 0..1, random 0..1, brightness
uniform mat4 model;
uniform mat4 projection;
uniform float least_width;  // half width of a pixel, as a share of the distance; 0: draw strands as thin as they are
uniform vec4 viewer;  // xyz: position (w = 1) or direction towards the viewer (w = 0)
out vec3 v_world;
#ifdef SHADED
out vec3 v_colour;
out float v_cover;
vec3 shade(vec3 world, vec3 tangent, float along, float random, float brightness);
#endif
invariant gl_Position;

void main() {
    vec3 world = (model * vec4(in_position, 1.0)).xyz;
    vec3 tangent = normalize(mat3(model) * in_tangent);
    vec3 towards = viewer.w > 0.5 ? normalize(viewer.xyz - world) : viewer.xyz;
    vec3 across = cross(tangent, towards);
    across /= max(length(across), 1e-4);
    // Strands thinner than a pixel are drawn one pixel wide and let the rest through.
    float half_width = max(abs(in_strand.x), least_width * length(world));
    vec3 edge = world + across * half_width * sign(in_strand.x);
    v_world = edge;
#ifdef SHADED
    v_cover = abs(in_strand.x) / half_width;
    v_colour = shade(world, tangent, in_strand.y, in_strand.z, in_strand.w);
#endif
    gl_Position = projection * vec4(edge, 1.0);
}
