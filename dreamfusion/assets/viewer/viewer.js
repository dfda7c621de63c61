"use strict";
// One page for a finished run (everything inside it) and for one that is training (served; it asks for data.json).
let data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// ------------------------------------------------------------------------------------------------ words, curves
function showWords() {
  byId("prompt").textContent = data.prompt;
  const parts = [`run ${data.run}`, `step ${data.step} of ${data.steps}`, data.status];
  if (data.mesh) parts.push(`${data.mesh.faces.toLocaleString()} faces`);
  byId("status").textContent = parts.join("  ·  ");
  byId("settings").textContent = data.settings;
}

function showCurves() {
  const holder = byId("curves");
  holder.hidden = data.curves.length === 0;
  holder.querySelectorAll("figure").forEach((old) => old.remove());
  for (const curve of data.curves) {
    const known = curve.values.filter((value) => value !== null);
    if (known.length === 0) continue;
    const low = Math.min(...known), high = Math.max(...known), span = high - low || 1;
    const first = curve.steps[0], length = curve.steps[curve.steps.length - 1] - first || 1;
    let path = "", pen = "M";
    curve.values.forEach((value, index) => {
      if (value === null) { pen = "M"; return; }
      path += `${pen}${(100 * (curve.steps[index] - first) / length).toFixed(2)} ${(38 - 36 * (value - low) / span).toFixed(2)}`;
      pen = "L";
    });
    const figure = document.createElement("figure");
    figure.className = "curve";
    figure.innerHTML = '<figcaption><span></span><span></span></figcaption><svg viewBox="0 0 100 40" preserveAspectRatio="none"><path></path></svg>';
    const captions = figure.querySelectorAll("figcaption span");
    captions[0].textContent = curve.name;
    captions[1].textContent = `${low.toPrecision(3)} to ${high.toPrecision(3)}, now ${known[known.length - 1].toPrecision(3)}`;
    figure.querySelector("path").setAttribute("d", path);
    holder.append(figure);
  }
}

// --------------------------------------------------------------------------------------------------- time-lapse
let shown = -1, timer = 0;
function showPreview(index) {
  shown = Math.max(0, Math.min(index, data.previews.length - 1));
  const preview = data.previews[shown];
  byId("preview").src = preview.src;
  byId("frame").value = shown;
  byId("step").textContent = `step ${preview.step}`;
}
function showPreviews() {
  byId("lapse").hidden = data.previews.length === 0;
  if (data.previews.length === 0) return;
  const atEnd = shown < 0 || shown >= Number(byId("frame").max);
  byId("frame").max = data.previews.length - 1;
  if (atEnd && !timer) showPreview(data.previews.length - 1);
}
function play() {
  if (timer) { clearInterval(timer); timer = 0; byId("play").textContent = "play"; return; }
  let next = shown >= data.previews.length - 1 ? 0 : shown;
  byId("play").textContent = "stop";
  showPreview(next);
  timer = setInterval(() => { next += 1; if (next >= data.previews.length) play(); else showPreview(next); }, 200);
}
byId("play").addEventListener("click", play);
byId("frame").addEventListener("input", (event) => { if (timer) play(); showPreview(Number(event.target.value)); });

// ---------------------------------------------------------------------------------------------------- the object
const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec4 tangent; in vec4 color; in vec2 uv;
uniform mat4 camera; out vec3 n; out vec4 along; out vec4 c; out vec2 t;
void main() { n = normal; along = tangent; c = color; t = uv; gl_Position = camera * vec4(position, 1.0); }`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 n; in vec4 along; in vec4 c; in vec2 t; out vec4 result;
uniform sampler2D picture; uniform sampler2D leaning; uniform bool textured; uniform bool mapped; uniform int mode; uniform vec3 eye;
vec3 srgb(vec3 v) { return mix(12.92 * v, 1.055 * pow(max(v, 1e-5), vec3(1.0 / 2.4)) - 0.055, step(0.0031308, v)); }
vec3 linear(vec3 v) { return mix(v / 12.92, pow((v + 0.055) / 1.055, vec3(2.4)), step(0.04045, v)); }
vec3 seenNormal() {
  vec3 own = normalize(n);
  if (!mapped) return own;
  vec3 tangent = normalize(along.xyz - dot(along.xyz, own) * own);
  return normalize(mat3(tangent, along.w * cross(own, tangent), own) * (2.0 * texture(leaning, t).rgb - 1.0));
}
void main() {
  vec3 albedo = textured ? texture(picture, t).rgb : srgb(c.rgb);
  vec3 shown = albedo;
  if (mode == 1) shown = srgb(linear(albedo) * (0.35 + 0.75 * max(dot(seenNormal(), normalize(eye + vec3(0.4, 0.8, 0.0))), 0.0)));
  if (mode == 2) shown = 0.5 + 0.5 * seenNormal();
  if (mode == 3) shown = 0.6 * albedo;
  result = vec4(shown, 1.0);
}`;
const MODES = ["albedo", "shaded", "normals", "wireframe"];
const canvas = byId("view");
const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
const orbit = { azimuth: 0.6, elevation: 0.3, distance: 3.0 };
let program = null, mesh = null, mode = 0;

function parseGlb(buffer) {
  const view = new DataView(buffer), length = view.getUint32(12, true);
  const tree = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 20, length)));
  const start = 28 + length, kinds = { 5121: Uint8Array, 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };
  const widths = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4 };
  const array = (index) => {
    const accessor = tree.accessors[index], at = tree.bufferViews[accessor.bufferView];
    const offset = start + (at.byteOffset || 0) + (accessor.byteOffset || 0);
    return { values: new kinds[accessor.componentType](buffer, offset, accessor.count * widths[accessor.type]), accessor };
  };
  const primitive = tree.meshes[0].primitives[0], found = { indices: array(primitive.indices).values, arrays: {}, picture: null, leaning: null };
  for (const [name, index] of Object.entries(primitive.attributes)) found.arrays[name] = array(index);
  const picture = (texture) => {
    if (!texture) return null;
    const image = tree.images[tree.textures[texture.index].source], at = tree.bufferViews[image.bufferView];
    return new Blob([new Uint8Array(buffer, start + at.byteOffset, at.byteLength)], { type: image.mimeType });
  };
  const material = tree.materials[primitive.material];
  found.picture = picture(material.pbrMetallicRoughness.baseColorTexture);
  found.leaning = picture(material.normalTexture);
  return found;
}

function linesOf(indices) {
  const seen = new Set(), lines = [];
  for (let i = 0; i < indices.length; i += 3) {
    for (let k = 0; k < 3; k += 1) {
      const a = indices[i + k], b = indices[i + (k + 1) % 3], key = a < b ? a * 4294967296 + b : b * 4294967296 + a;
      if (!seen.has(key)) { seen.add(key); lines.push(a, b); }
    }
  }
  return new Uint32Array(lines);
}

function makeProgram() {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source); gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  return made;
}

// A picture on one of the two texture units; white where there is none.
async function showPicture(unit, blob) {
  const picture = blob && await createImageBitmap(blob, { colorSpaceConversion: "none" });
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  if (!picture) {
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array([255, 255, 255, 255]));
    return false;
  }
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
  gl.generateMipmap(gl.TEXTURE_2D);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  return true;
}

async function upload(buffer) {
  const found = parseGlb(buffer), vertices = gl.createVertexArray();
  const made = { vertices, triangles: found.indices.length, indices: gl.createBuffer(), lines: gl.createBuffer(), lineCount: 0, wide: found.indices instanceof Uint32Array, found };
  gl.bindVertexArray(vertices);
  for (const [name, attribute] of [["POSITION", "position"], ["NORMAL", "normal"], ["TANGENT", "tangent"], ["COLOR_0", "color"], ["TEXCOORD_0", "uv"]]) {
    const place = gl.getAttribLocation(program, attribute), given = found.arrays[name];
    if (place < 0 || !given) continue;
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, given.values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, given.values.length / given.accessor.count, given.accessor.componentType, Boolean(given.accessor.normalized), 0, 0);
  }
  gl.bindVertexArray(null);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, made.indices);
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, found.indices, gl.STATIC_DRAW);
  made.textured = await showPicture(0, found.picture);
  made.mapped = await showPicture(1, found.leaning);
  const { min, max } = found.arrays.POSITION.accessor;
  made.centre = [0, 1, 2].map((k) => (min[k] + max[k]) / 2);
  made.radius = Math.hypot(...[0, 1, 2].map((k) => (max[k] - min[k]) / 2)) || 1;
  mesh = made;
  byId("message").textContent = "";
  draw();
}

function cameraMatrix(aspect) {
  const { azimuth, elevation, distance } = orbit;
  const eye = [Math.cos(elevation) * Math.sin(azimuth), Math.sin(elevation), Math.cos(elevation) * Math.cos(azimuth)];
  const right = [Math.cos(azimuth), 0, -Math.sin(azimuth)];
  const up = [eye[1] * right[2] - eye[2] * right[1], eye[2] * right[0] - eye[0] * right[2], eye[0] * right[1] - eye[1] * right[0]];
  const far = distance * mesh.radius, f = 1 / Math.tan(0.35) / Math.min(1, aspect), near = Math.max(far - 1.5 * mesh.radius, 0.02 * mesh.radius), end = far + 1.5 * mesh.radius;
  const rows = [right, up, eye].map((axis, k) => [...axis, -axis.reduce((sum, v, i) => sum + v * mesh.centre[i], 0) - (k === 2 ? far : 0)]);
  const z = rows[2].map((v, i) => v * (near + end) / (near - end) + (i === 3 ? 2 * near * end / (near - end) : 0));
  const matrix = [rows[0].map((v) => v * f / aspect), rows[1].map((v) => v * f), z, rows[2].map((v) => -v)];
  return { eye, matrix: new Float32Array([0, 1, 2, 3].flatMap((column) => matrix.map((row) => row[column]))) };
}

function draw() {
  if (!gl || !mesh) return;
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const { eye, matrix } = cameraMatrix(width / height);
  gl.viewport(0, 0, width, height);
  gl.clearColor(1, 1, 1, 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.enable(gl.DEPTH_TEST); gl.enable(gl.CULL_FACE);
  gl.useProgram(program);
  gl.uniformMatrix4fv(gl.getUniformLocation(program, "camera"), false, matrix);
  gl.uniform3fv(gl.getUniformLocation(program, "eye"), eye);
  gl.uniform1i(gl.getUniformLocation(program, "mode"), mode);
  gl.uniform1i(gl.getUniformLocation(program, "textured"), mesh.textured ? 1 : 0);
  gl.uniform1i(gl.getUniformLocation(program, "mapped"), mesh.mapped ? 1 : 0);
  gl.uniform1i(gl.getUniformLocation(program, "leaning"), 1);
  gl.bindVertexArray(mesh.vertices);
  if (MODES[mode] === "wireframe") {
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, mesh.lines);
    if (!mesh.lineCount) {
      const lines = linesOf(mesh.found.indices);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, lines, gl.STATIC_DRAW);
      mesh.lineCount = lines.length;
    }
    gl.drawElements(gl.LINES, mesh.lineCount, gl.UNSIGNED_INT, 0);
  } else {
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, mesh.indices);
    gl.drawElements(gl.TRIANGLES, mesh.triangles, mesh.wide ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT, 0);
  }
  gl.bindVertexArray(null);
}

function turn(dx, dy) {
  orbit.azimuth -= 0.01 * dx;
  orbit.elevation = Math.max(-1.55, Math.min(1.55, orbit.elevation + 0.01 * dy));
  requestAnimationFrame(draw);
}
canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
canvas.addEventListener("pointermove", (event) => { if (event.buttons) turn(event.movementX, event.movementY); });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  orbit.distance = Math.max(0.8, Math.min(20, orbit.distance * Math.exp(0.001 * event.deltaY)));
  requestAnimationFrame(draw);
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] }[event.key];
  if (step) { event.preventDefault(); turn(...step); }
});
byId("modes").addEventListener("click", (event) => {
  const chosen = MODES.indexOf(event.target.dataset.mode);
  if (chosen < 0) return;
  mode = chosen;
  byId("modes").querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(button === event.target)));
  draw();
});
new ResizeObserver(() => requestAnimationFrame(draw)).observe(canvas);

// ----------------------------------------------------------------------------------------------------- all of it
let meshVersion = null;
async function showMesh() {
  if (!gl) { byId("message").textContent = "This browser has no WebGL 2, so the object cannot be shown."; return; }
  if (!data.mesh) { byId("message").textContent = "There is no mesh yet."; return; }
  if (data.mesh.version === meshVersion) return;
  meshVersion = data.mesh.version;
  program = program || makeProgram();
  if (data.mesh.base64) await upload(Uint8Array.from(atob(data.mesh.base64), (c) => c.charCodeAt(0)).buffer);
  else await upload(await (await fetch(data.mesh.src)).arrayBuffer());
}
async function show() { showWords(); showCurves(); showPreviews(); await showMesh(); }

async function follow() {
  try {
    data = await (await fetch("data.json", { cache: "no-store" })).json();
    await show();
  } catch (error) {
    byId("status").textContent = "the server has gone; what is here stays as it was";
  }
  if (data.live) setTimeout(follow, 3000);
}
show().then(() => { document.body.dataset.ready = "yes"; if (data.live) setTimeout(follow, 3000); });
