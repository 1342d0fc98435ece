// The picture with its marked parts, zoom and slider; the clip with its timeline. Not here: the verdict beside it (results.js).
import { getBlob } from "./api.js";
import { clock, el, svg } from "./dom.js";
import { say } from "./words.js";

const url = async (path) => URL.createObjectURL(await getBlob(path));

/** A picture that can be zoomed (wheel, buttons, + and −) and moved (drag, arrows), with the marked one over it. */
export function pictureViewer(base, row) {
  const plain = el("img", { alt: say("picture", { name: row.name }), draggable: "false" });
  const layers = el("div", { class: "layers" }, plain);
  const stage = el("div", { class: "stage", tabindex: "0", role: "group", "aria-label": say("zoomHelp") }, layers);
  const box = el("div", { class: "viewer row", "data-part": "picture" });
  box.style.display = "contents";
  const tools = el("div", { class: "tools" });
  box.append(stage, tools);
  url(`${base}/preview?file=${row.file}`).then((src) => (plain.src = src), () => stage.remove());
  if (row.regions.length) marked(base, row, layers, tools, box);
  else if (row.asked) box.append(el("p", { class: "soft small" }, say("noParts")));
  zooming(stage, layers, tools);
  return box;
}

function marked(base, row, layers, tools, box) {
  const top = el("img", { class: "top overlay", alt: say("withParts"), draggable: "false" });
  const edge = el("div", { class: "edge" });
  const slider = el("input", { type: "range", min: "0", max: "100", value: "100", class: "compare", "aria-label": say("compare") });
  layers.append(top, edge);
  url(`${base}/overlay?file=${row.file}`).then((src) => (top.src = src), () => top.remove());
  const draw = () => {
    const share = Number(slider.value);
    top.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    edge.style.left = `${share}%`;
    edge.hidden = share === 0 || share === 100;
    for (const [name, value] of modes) name.setAttribute("aria-pressed", String(value === share || (value === 50 && share > 0 && share < 100)));
  };
  const modes = [["mode_plain", 0], ["mode_split", 50], ["mode_marked", 100]].map(([key, value]) => [
    el("button", { type: "button", onclick: () => { slider.value = value; draw(); } }, say(key)), value]);
  slider.addEventListener("input", draw);
  tools.append(...modes.map(([button]) => button));
  const n = row.regions.length;
  box.append(slider, el("p", { class: "soft small" }, n === 1 ? say("onePartFound") : say("partsFound", { n })));
  draw();
}

function zooming(stage, layers, tools) {
  let scale = 1, x = 0, y = 0, held = null;
  const draw = () => {
    const w = layers.offsetWidth, h = layers.offsetHeight;
    x = Math.min(0, Math.max(x, w - w * scale));
    y = Math.min(0, Math.max(y, h - h * scale));
    layers.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  };
  const zoom = (factor, cx = layers.offsetWidth / 2, cy = layers.offsetHeight / 2) => {
    const next = Math.min(12, Math.max(1, scale * factor));
    x = cx - ((cx - x) * next) / scale;
    y = cy - ((cy - y) * next) / scale;
    scale = next;
    draw();
  };
  const reset = () => { scale = 1; x = y = 0; draw(); };
  const at = (event) => { const r = layers.getBoundingClientRect(); return [event.clientX - r.left + x, event.clientY - r.top + y]; };
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && scale === 1 && event.deltaY > 0) return; // the page scrolls on
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, ...at(event));
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => { held = [event.clientX - x, event.clientY - y]; stage.setPointerCapture(event.pointerId); });
  stage.addEventListener("pointermove", (event) => { if (held) { x = event.clientX - held[0]; y = event.clientY - held[1]; draw(); } });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (held = null));
  stage.addEventListener("dblclick", (event) => (scale > 1 ? reset() : zoom(3, ...at(event))));
  stage.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0" || event.key === "Escape") reset();
    else if (event.key in moves && scale > 1) { x += moves[event.key][0]; y += moves[event.key][1]; draw(); }
    else return;
    event.preventDefault();
  });
  tools.append(el("span", { class: "gap" }),
    el("button", { type: "button", "aria-label": say("zoomOut"), onclick: () => zoom(1 / 1.5) }, "−"),
    el("button", { type: "button", class: "fit", onclick: reset }, say("zoomReset")),
    el("button", { type: "button", "aria-label": say("zoomIn"), onclick: () => zoom(1.5) }, "+"));
}

/** The frames that were looked at, over a timeline of their scores: click, slide or use the arrow keys. */
export function clipViewer(base, row, limits, local) {
  const frames = row.frames;
  const image = el("img", { alt: "" });
  const stage = el("div", { class: "stage" }, el("div", { class: "layers" }, image));
  const says = el("output", { class: "frameSays", "aria-live": "polite" });
  const slider = el("input", { type: "range", min: "0", max: String(frames.length - 1), step: "1", class: "scrub", "aria-label": say("scrub") });
  const { picture, dots, cursor, across } = timeline(row, limits, (at) => go(at));
  const strip = el("div", { class: "filmstrip" });
  const shots = frames.map((frame, at) => {
    const shot = el("img", { alt: "" });
    const button = el("button", { type: "button", "aria-label": say("frameAt", { time: clock(frame.time_s), score: frame.score.toFixed(2) }), onclick: () => go(at) }, shot);
    url(`${base}/preview?file=${row.file}&frame=${at}`).then((src) => { shot.src = src; if (Number(slider.value) === at) image.src = src; }, () => button.remove());
    strip.append(button);
    return [button, shot];
  });
  const go = (at) => {
    slider.value = at;
    const words = say("frameAt", { time: clock(frames[at].time_s), score: frames[at].score.toFixed(2) });
    says.textContent = words;
    slider.setAttribute("aria-valuetext", words);
    image.alt = words;
    if (shots[at][1].src) image.src = shots[at][1].src;
    dots.forEach((dot, i) => dot.classList.toggle("now", i === at));
    shots.forEach(([button], i) => button.setAttribute("aria-pressed", String(i === at)));
    cursor.setAttribute("x1", across[at]);
    cursor.setAttribute("x2", across[at]);
  };
  slider.addEventListener("input", () => go(Number(slider.value)));
  const worst = frames.reduce((best, frame, at) => (frame.score > frames[best].score ? at : best), 0);
  const end = frames.at(-1).time_s || 1;
  const box = el("div", { "data-part": "clip" }, stage, says, picture,
    el("div", { class: "ticks", "aria-hidden": "true" }, [0, 0.25, 0.5, 0.75, 1].map((share) => el("span", {}, clock(end * share)))),
    slider, strip, el("p", { class: "soft small" }, say("timelineHelp")));
  box.style.display = "contents";
  if (local?.type.startsWith("video/")) {
    const play = el("button", { type: "button", onclick: () => {
      const video = el("video", { src: URL.createObjectURL(local), controls: true, playsinline: true });
      video.style.maxWidth = "100%";
      video.style.maxHeight = "460px";
      video.addEventListener("timeupdate", () => { const x = Math.min(100, (100 * video.currentTime) / end); cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); });
      stage.replaceChildren(video);
      play.remove();
      video.play().catch(() => {});
    } }, say("playHere"));
    box.append(el("div", { class: "tools" }, play));
  }
  go(worst);
  return box;
}

/** The part of 0..1 that the drawing shows: the scores and the thresholds, and never less than a fifth. */
function span(scores, limits) {
  let low = Math.min(...scores, ...limits) - 0.04, high = Math.max(...scores, ...limits) + 0.04;
  const more = Math.max(0, 0.2 - (high - low)) / 2;
  low = Math.max(0, low - more);
  high = Math.min(1, high + more);
  return [low, high];
}

function timeline(row, limits, go) {
  const frames = row.frames, end = frames.at(-1).time_s || 1;
  const [low, high] = span(frames.map((frame) => frame.score), limits ?? []);
  const up = (score) => (100 * (high - score)) / (high - low);
  const across = frames.map((frame) => (100 * frame.time_s) / end);
  const points = frames.map((frame, at) => `${across[at]},${up(frame.score)}`);
  const flat = (y, kind) => svg("line", { x1: 0, x2: 100, y1: y, y2: y, class: kind });
  const plot = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", class: "timeline", role: "img", "aria-label": say("timeline") },
    [0, 100].map((y) => flat(y, "grid")), (limits ?? []).map((limit) => flat(up(limit), "limit")));
  if (row.stretch) {
    const from = (100 * row.stretch.start_s) / end, to = (100 * row.stretch.end_s) / end;
    plot.append(svg("rect", { class: "part", x: Math.min(from, 99), y: 0, width: Math.max(1, to - from), height: 100 }));
  }
  const cursor = svg("line", { class: "cursor", y1: 0, y2: 100 });
  plot.append(svg("polygon", { class: "area", points: `${across[0]},100 ${points.join(" ")} ${across.at(-1)},100` }), svg("polyline", { class: "line", points: points.join(" ") }), cursor);
  const overlay = svg("svg", { class: "timeline dots", "aria-hidden": "true" });
  const dots = frames.map((frame, at) => svg("circle", { class: "dot", cx: `${across[at]}%`, cy: `${up(frame.score)}%`, r: 5 }));
  overlay.append(...dots, svg("rect", { class: "hit", x: 0, y: 0, width: "100%", height: "100%" }));
  const pick = (event) => {
    const r = overlay.getBoundingClientRect();
    const x = (100 * (event.clientX - r.left)) / r.width;
    go(across.reduce((best, value, at) => (Math.abs(value - x) < Math.abs(across[best] - x) ? at : best), 0));
  };
  overlay.addEventListener("pointerdown", (event) => { overlay.setPointerCapture(event.pointerId); pick(event); });
  overlay.addEventListener("pointermove", (event) => { if (event.buttons) pick(event); });
  const picture = el("div", { class: "plot" }, plot, overlay);
  let last = -1;
  for (const value of [high, ...(limits ?? []).toReversed(), low]) {
    if (last >= 0 && up(value) - last < 12) continue; // it would cover the one above
    last = up(value);
    const label = el("span", { class: "axis", "aria-hidden": "true" }, value.toFixed(2));
    label.style.top = `${up(value)}%`;
    picture.append(label);
  }
  return { picture, dots, cursor, across };
}
