in vec3 v_world;
uniform float region;
layout(location = 0) out vec2 out_label;

void main() { out_label = vec2(region, -v_world.z); }
