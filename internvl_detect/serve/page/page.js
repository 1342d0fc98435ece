// The flow: files in (drop, paste, pick), a job for them, its progress, results; session history, language, theme, links.
import { Trouble, follow, getBlob, getJson, remove, sendJob, useToken } from "./api.js";
import { el } from "./dom.js";
import { actions, batchList, headline, verdictCard } from "./results.js";
import { known, say, speak } from "./words.js";

const $ = (id) => document.getElementById(id);
const STEPS = ["Upload", "Decode", "Judge", "Done"];
const LOOKS = /\.(jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?|avif|hei[cf]|mp4|m4v|mov|mkv|webm|avi|mpe?g|m?ts|m2ts|flv|og[gv]|wmv|3gp)$/i;
const state = { server: null, shown: null, stop: null, locals: new Map(), waiting: null };

// ---- language and theme
function translate() {
  document.documentElement.lang = speak($("language").value) === "zh" ? "zh" : "en";
  for (const node of document.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
  $("reading").replaceChildren(...[1, 2, 3, 4, 5].map((n) => el("li", {}, say(`read${n}`))));
  describe();
  history();
  if (state.shown) show(state.shown);
}

function describe() {
  const server = state.server;
  $("model").textContent = server ? say("model", { name: server.model }) : say("loading");
  if (server) {
    $("limits").textContent = say("limits", { mb: Math.floor(server.limits.max_file_bytes / 2 ** 20) });
    $("frames").max = server.limits.max_frames;
  }
}

function theme() {
  const chosen = $("theme").value;
  const dark = chosen === "dark" || (chosen === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

// ---- trouble
function failed(error, retry) {
  if (error.name === "AbortError") return;
  busy(false);
  const code = error instanceof Trouble ? error.code : "other";
  if (code === "no_token") {
    $("tokenForm").hidden = false;
    $("token").focus();
    state.waiting = retry ?? null;
    if (!state.tried) return; // the form says it
  }
  const text = known(`err_${code}`) ? say(`err_${code}`, { s: error.retry }) : say("err_other", { message: error.message });
  const banner = el("div", { class: "banner" }, el("span", {}, text));
  if (known(`err_${code}`) && error.message && code !== "no_token" && code !== "busy") banner.append(el("small", { class: "soft", lang: "en" }, error.message));
  if (retry && code !== "no_token") banner.append(el("button", { type: "button", onclick: () => { calm(); retry(); } }, say("retry")));
  banner.append(el("button", { type: "button", onclick: calm }, say("dismiss")));
  $("alert").replaceChildren(banner);
}

const calm = () => $("alert").replaceChildren();

// ---- progress
function busy(on) {
  $("progress").hidden = !on;
  if (!on) state.stop = null;
}

function progress(step, words, share) {
  busy(true);
  if ($("stage").textContent !== words) $("stage").textContent = words;
  if (share == null) $("bar").removeAttribute("value");
  else $("bar").value = 100 * share;
  $("stages").replaceChildren(...STEPS.map((name, at) => el("li", { class: at < step ? "past" : at === step ? "now" : null, "aria-current": at === step ? "step" : null }, say(`step${name}`))));
}

// ---- from files to results
const named = (files) => (files.length === 1 ? say("oneFile", { name: files[0].name }) : say("manyFiles", { n: files.length }));

async function check(given) {
  const files = [...given];
  if (!files.length) return failed(new Trouble("nothing", ""));
  calm();
  state.stop?.abort();
  const stop = (state.stop = new AbortController());
  const many = state.server?.limits.max_files ?? 64, parts = [];
  for (let at = 0; at < files.length; at += many) parts.push(files.slice(at, at + many));
  const options = { explain: $("explain").checked, mask: $("mask").checked, frames: $("frames").value || 8, language: $("language").value };
  const ids = [];
  try {
    for (const [at, part] of parts.entries()) {
      progress(0, say("uploading", { n: named(files), percent: Math.round((100 * at) / parts.length) }), at / parts.length);
      const job = await sendPatiently(part, options, (sent) => {
        const share = (at + sent) / parts.length;
        progress(0, say("uploading", { n: named(files), percent: Math.round(100 * share) }), share);
      }, stop.signal);
      ids.push(job.id);
      part.forEach((file, n) => state.locals.set(`${job.id}/${n}`, file));
    }
    state.skip = `#job=${ids.join(",")}`;
    location.hash = state.skip;
    await watch(ids, stop);
  } catch (error) {
    if (state.stop === stop) failed(error, () => check(files));
  }
}

async function sendPatiently(part, options, told, signal) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await sendJob(part, options, told, signal);
    } catch (error) {
      if (error.code !== "busy" || attempt >= 5) throw error;
      progress(0, say("err_busy", { s: error.retry }), null);
      await new Promise((wake) => setTimeout(wake, 1000 * error.retry));
    }
  }
}

async function watch(ids, stop) {
  const jobs = new Map();
  const told = (job) => {
    if (state.stop !== stop) return;
    jobs.set(job.id, job);
    const all = [...jobs.values()], done = all.reduce((n, j) => n + j.done, 0), total = all.reduce((n, j) => n + j.total, 0);
    const stages = new Set(all.map((j) => j.stage));
    const stage = ["judging", "decoding", "queued"].find((name) => stages.has(name)) ?? "finishing";
    const step = stage === "judging" || stage === "finishing" ? 2 : 1;
    const words = total > 1 ? `${say(stage)} ${say("ofFiles", { done, total })}` : say(stage);
    progress(step, words, total > 1 ? done / total : step === 2 ? 0.7 : 0.4);
  };
  const finished = await Promise.all(ids.map((id) => follow(id, told, stop.signal)));
  if (state.stop !== stop) return;
  busy(false);
  if (finished.some((job) => job.state === "expired")) throw new Trouble("expired", "");
  show({ jobs: finished }, true);
  remember(ids, finished);
}

// ---- results
function rowsOf(jobs) {
  return jobs.flatMap((job) => job.results.map((row, file) => ({ ...row, file, job: job.id, asked: job.options.mask, id: `${job.id}/${file}` })));
}

function view(job, shown) {
  const ids = shown.jobs.map((one) => one.id);
  return {
    base: `/v1/jobs/${encodeURIComponent(job)}`,
    limits: state.server ? [state.server.low, state.server.high] : null,
    scoreLimits: state.server ? [state.server.score_low, state.server.score_high] : null,
    link: `${location.origin}/#job=${ids.join(",")}`,
    failed,
    gone: () => { forgetHistory(ids); clear(); $("alert").replaceChildren(el("div", { class: "panel", role: "status" }, say("forgotten"))); },
    thumb: (row, image) => getBlob(`/v1/jobs/${encodeURIComponent(row.job)}/preview?file=${row.file}`).then((blob) => (image.src = URL.createObjectURL(blob)), () => {}),
  };
}

function show(shown, focus = false) {
  state.shown = shown;
  document.body.classList.add("compact");
  const rows = rowsOf(shown.jobs), area = $("results");
  const single = rows.length === 1 ? rows[0] : rows.find((row) => row.id === shown.open);
  if (single) {
    const card = verdictCard(single, { ...view(single.job, shown), local: state.locals.get(single.id) });
    const back = rows.length > 1 ? el("button", { type: "button", class: "link", onclick: () => show({ ...shown, open: null }, true) }, `← ${say("back")}`) : null;
    area.replaceChildren(...[back, card].filter(Boolean));
  } else {
    const list = batchList(rows, view(shown.jobs[0].id, shown), (row) => show({ ...shown, open: row.id }, true));
    if (shown.jobs.length === 1) list.append(actions(null, view(shown.jobs[0].id, shown)));
    area.replaceChildren(list);
  }
  if (focus) {
    area.querySelector("h2")?.focus({ preventScroll: true });
    area.scrollIntoView({ block: "start" });
  }
  document.title = single ? `${headline(single)} – ${single.name}` : "ivdetect";
}

function clear() {
  state.shown = null;
  document.body.classList.remove("compact");
  $("results").replaceChildren();
  if (location.hash) window.history.replaceState(null, "", location.pathname);
  document.title = "ivdetect";
}

async function fromLink() {
  const ids = /^#job=([\w,-]+)$/.exec(location.hash)?.[1].split(",").filter(Boolean) ?? [];
  if (location.hash === state.skip) { state.skip = null; return; }
  if (!ids.length) return;
  calm();
  state.stop?.abort();
  const stop = (state.stop = new AbortController());
  try {
    await watch(ids, stop);
  } catch (error) {
    if (state.stop === stop) failed(error, fromLink);
  }
}

// ---- history of the session
const stored = () => JSON.parse(sessionStorage.getItem("history") ?? "[]");

function remember(ids, jobs) {
  const rows = rowsOf(jobs), kept = stored().filter((entry) => entry.ids.join() !== ids.join());
  kept.unshift({ ids, n: rows.length, name: rows[0]?.name ?? "", row: rows.length === 1 ? { error: rows[0].error, exit_code: rows[0].exit_code, decision: rows[0].decision, label: rows[0].label } : null });
  sessionStorage.setItem("history", JSON.stringify(kept.slice(0, 50)));
  history();
}

function forgetHistory(ids) {
  sessionStorage.setItem("history", JSON.stringify(stored().filter((entry) => entry.ids.join() !== ids.join())));
  history();
}

function history() {
  const entries = stored();
  $("history").hidden = !entries.length;
  $("history").querySelector("ul").replaceChildren(...entries.map((entry) => el("li", {},
    el("button", { type: "button", class: "link", onclick: () => { location.hash = `#job=${entry.ids.join(",")}`; } }, entry.n === 1 ? entry.name : say("manyFiles", { n: entry.n })),
    entry.row ? el("span", {}, headline(entry.row)) : null)));
}

// ---- files in
async function fromDrop(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  const walk = async (entry) => {
    if (entry.isFile) files.push(await new Promise((ok, no) => entry.file(ok, no)));
    else {
      const reader = entry.createReader();
      for (let more; (more = await new Promise((ok, no) => reader.readEntries(ok, no))).length; ) for (const one of more) await walk(one);
    }
  };
  for (const entry of entries) await walk(entry);
  return files.filter((file) => LOOKS.test(file.name));
}

function listen() {
  $("pick").addEventListener("click", () => $("files").click());
  $("pickFolder").addEventListener("click", () => $("folder").click());
  $("files").addEventListener("change", () => { check($("files").files); $("files").value = ""; });
  $("folder").addEventListener("change", () => { check([...$("folder").files].filter((file) => LOOKS.test(file.name))); $("folder").value = ""; });
  addEventListener("paste", (event) => { if (event.clipboardData?.files.length) { event.preventDefault(); check(event.clipboardData.files); } });
  let depth = 0;
  const over = (change) => { depth = Math.max(0, depth + change); $("over").hidden = depth === 0; };
  addEventListener("dragenter", (event) => { if (event.dataTransfer?.types.includes("Files")) over(1); });
  addEventListener("dragleave", () => over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", async (event) => { event.preventDefault(); depth = 0; over(0); if (event.dataTransfer.items.length) check(await fromDrop(event.dataTransfer)); });
  $("stop").addEventListener("click", () => {
    const ids = /^#job=([\w,-]+)$/.exec(location.hash)?.[1].split(",") ?? [];
    state.stop?.abort();
    busy(false);
    ids.forEach((id) => remove(`/v1/jobs/${encodeURIComponent(id)}`).catch(() => {}));
    clear();
    $("alert").replaceChildren(el("div", { class: "panel", role: "status" }, say("err_stopped")));
  });
  $("tokenForm").addEventListener("submit", (event) => {
    event.preventDefault();
    useToken($("token").value);
    state.tried = true;
    $("token").value = "";
    $("tokenForm").hidden = true;
    calm();
    const again = state.waiting ?? fromLink;
    state.waiting = null;
    again();
  });
  $("language").addEventListener("change", () => { localStorage.setItem("language", $("language").value); translate(); });
  $("theme").addEventListener("change", () => { localStorage.setItem("theme", $("theme").value); theme(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
  addEventListener("hashchange", fromLink);
}

async function meet() {
  try {
    state.server = await getJson("/readyz");
    describe();
  } catch {
    describe();
    setTimeout(meet, 1500);
  }
}

$("language").value = localStorage.getItem("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
$("theme").value = localStorage.getItem("theme") ?? "auto";
theme();
translate();
listen();
meet().then(fromLink);
document.documentElement.dataset.ready = "yes";
