// Strand colour comes from the vertices; only the contact darkening is per sample.
in vec3 v_world;
in vec3 v_colour;
in float v_cover;
uniform sampler2D occlusion;
uniform vec2 picture;
layout(location = 0) out vec4 out_colour;

void main() { out_colour = vec4(v_colour * mix(0.45, 1.0, texture(occlusion, gl_FragCoord.xy / picture).r), v_cover); }
