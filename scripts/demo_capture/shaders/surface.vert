// Triangles of skin, eyes, mouth and clothes. World space = GL eye space: x right, y up, camera at 0 looking along -z, cm.
in vec3 in_position;
in vec3 in_normal;
in vec3 in_rest;    // head space at rest (eyeballs: their own space); anchors noise and paint
in vec4 in_paint;
in vec4 in_paint2;
uniform mat4 model;
uniform mat4 projection;
out vec3 v_world;
out vec3 v_normal;
out vec3 v_rest;
out vec4 v_paint;
out vec4 v_paint2;

invariant gl_Position;

void main() {
    vec4 world = model * vec4(in_position, 1.0);
    v_world = world.xyz;
    v_normal = mat3(model) * in_normal;
    v_rest = in_rest;
    v_paint = in_paint;
    v_paint2 = in_paint2;
    gl_Position = projection * world;
}
