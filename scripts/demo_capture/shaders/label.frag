// Region label and distance along the view axis (cm), one sample per pixel.
in vec3 v_world;
uniform float region;
uniform float has_mouth;  // 1: the paint says where the skin is the inside of the mouth
in vec4 v_paint2;
layout(location = 0) out vec2 out_label;

void main() {
    float label = region;
    if (has_mouth > 0.5 && v_paint2.y > 0.5) label = 3.0;  // REGION_MOUTH: inside of the mouth
    out_label = vec2(label, -v_world.z);
}
