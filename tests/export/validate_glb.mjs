// node validate_glb.mjs FILE: prints what Khronos' glTF validator finds, as JSON.
import { readFileSync } from "node:fs";
import validator from "gltf-validator";

const bytes = new Uint8Array(readFileSync(process.argv[2]));
console.log(JSON.stringify(await validator.validateBytes(bytes, { maxIssues: 1000 })));
