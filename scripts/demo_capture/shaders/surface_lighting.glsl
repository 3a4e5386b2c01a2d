// What only fragments have: the screen-space occlusion at their place.
uniform sampler2D occlusion;
uniform vec2 picture;           // size of the render target in pixels

float screen_occlusion() { return texture(occlusion, gl_FragCoord.xy / picture).r; }
