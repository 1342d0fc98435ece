// A verdict as people read it: words first, the number on demand, evidence, what to do with it. A list where there are several.
import { getBlob, remove } from "./api.js";
import { el, icon, save } from "./dom.js";
import { clipViewer, pictureViewer } from "./viewer.js";
import { known, say } from "./words.js";

const CANCELLED = 130;
const finite = (value) => typeof value === "number" && Number.isFinite(value);

/** "fake", "unsure", "authentic" or "failed". */
export const outcome = (row) => (row.error != null ? "failed" : ["fake", "unsure", "authentic"].includes(row.decision) ? row.decision : "unsure");

function key(row) {
  const state = outcome(row);
  if (state === "failed" && row.exit_code === CANCELLED) return "cancelled";
  return state === "fake" && known(`fake_${row.label}`) ? `fake_${row.label}` : state;
}

export const headline = (row) => say(key(row));

export function percent(share) {
  if (!finite(share)) return "–";
  return share < 0.01 ? say("under1") : share > 0.99 ? say("over99") : `${Math.round(100 * share)}%`;
}

/** Everything about one file. `view` = {base, limits, local, link, gone}. */
export function verdictCard(row, view) {
  const state = outcome(row);
  const card = el("article", { class: `card ${state}`, "aria-label": `${row.name}: ${headline(row)}` });
  const head = el("div", { class: "head" },
    el("p", { class: "filename" }, row.name),
    el("div", { class: "verdict" }, icon(state), el("h2", { tabindex: "-1" }, headline(row))));
  const tell = el("div", { class: "tell" });
  if (state === "failed") {
    head.append(el("p", {}, say("why_failed")), el("p", { class: "soft reason", lang: "en" }, row.error));
    card.append(el("div", { class: "split bare" }, head), actions(row, view));
    return card;
  }
  const decides = row.evidence.find((item) => item.details?.strength === "decides");
  const apart = state === "unsure" && row.evidence.some((item) => item.details?.disagrees === true);
  head.append(el("p", {}, decides ? say("byC2pa") : say(apart ? "why_apart" : `why_${key(row)}`)));
  if (row.stretch) {
    const seconds = (value) => value.toFixed(1) + " s";
    head.append(el("p", { class: "stretch" }, say(state === "fake" ? "stretch_fake" : "stretch", { from: seconds(row.stretch.start_s), to: seconds(row.stretch.end_s) })));
  }
  tell.append(number(row, view.limits));
  const notes = row.notes.filter((note) => /model|adapter/i.test(note));
  if (notes.length) head.append(el("p", { class: "soft small", lang: "en" }, notes.join(" · ")));
  tell.append(evidence(row));
  const media = el("div", { class: "media" });
  if (row.kind === "video" && row.frames.length) media.append(clipViewer(view.base, row, view.scoreLimits, view.local));
  else media.append(pictureViewer(view.base, row));
  card.append(el("div", { class: "split" }, head, media, tell), facts(row), actions(row, view));
  return card;
}

function number(row, limits) {
  const box = el("details", { class: "number" }, el("summary", {}, say("number")));
  const [low, high] = limits ?? [0.3, 0.7];
  const gauge = el("div", { class: "gauge", role: "img", "aria-label": `${say("probability")}: ${percent(row.probability)}` });
  for (const [kind, from, to] of [["a", 0, low], ["u", low, high], ["f", high, 1]]) {
    const part = el("i", { class: kind });
    part.style.left = `${100 * from}%`;
    part.style.width = `${100 * (to - from)}%`;
    gauge.append(part);
  }
  const needle = el("b");
  needle.style.left = `${100 * Math.min(1, Math.max(0, row.probability))}%`;
  gauge.append(needle);
  const facts = [["probability", row.calibrated ? percent(row.probability) : row.probability.toFixed(2)], ["score", row.score.toFixed(4)]];
  if (limits) facts.push(["thresholds", say("thresholdsAre", { low: low.toFixed(2), high: high.toFixed(2) })]);
  box.append(gauge, el("div", { class: "gaugeWords", "aria-hidden": "true" }, ["noSign", "between", "likelyFake"].map((word) => el("span", {}, say(word)))),
    list(facts), el("p", { class: "soft small" }, row.calibrated ? say("calibrated", { p: percent(row.probability) }) : say("uncalibrated")));
  return box;
}

const list = (pairs) => el("dl", {}, pairs.map(([name, value]) => [el("dt", {}, known(name) ? say(name) : name), el("dd", {}, value)]));

function against(row, item) {
  if (!finite(item.score)) return false;
  return (row.decision === "fake" && item.score <= 0.3) || (row.decision === "authentic" && item.score >= 0.7);
}

function evidence(row) {
  const cards = [];
  const reasons = row.reasons, apart = reasons?.contradictions ?? [];
  if (row.words) {
    const said = reasons ? list([
      ...(reasons.whether == null ? [] : [["whether", say(reasons.whether ? "whether_yes" : "whether_no")]]),
      ...(reasons.where ? [["where", reasons.where.place]] : []),
      ...(reasons.basis.length ? [["basis", [...new Set(reasons.basis.map((one) => one.aspect))].join(", ")]] : [])]) : null;
    const card = el("li", { class: apart.length ? "against" : null }, el("div", { class: "row" }, el("h3", { class: "grow" }, say("source_words")), apart.length ? el("span", { class: "badge against" }, say("contradiction")) : null), el("blockquote", {}, row.words), said);
    card.append(...apart.map((text) => el("p", { class: "contradiction", lang: "en" }, text)), el("p", { class: "soft small" }, say(outcome(row) === "unsure" ? "wordsGuess" : "wordsHint")));
    cards.push(card);
  }
  for (const item of row.evidence) {
    const other = against(row, item), strength = item.details?.strength;
    const name = known(`source_${item.source}`) ? say(`source_${item.source}`) : item.source;
    const head = el("div", { class: "row" }, el("h3", { class: "grow" }, name));
    if (known(`strength_${strength}`)) head.append(el("span", { class: `badge ${strength}` }, say(`strength_${strength}`)));
    if (other) head.append(el("span", { class: "badge against" }, say("disagree")));
    const more = Object.entries(item.details ?? {}).filter(([k, v]) => !["strength", "tag", "probabilities", "disagrees"].includes(k) && v != null && v !== "");
    const shares = Object.entries(item.details?.probabilities ?? {}).filter(([, share]) => finite(share)).sort((a, b) => b[1] - a[1]).slice(0, 8);
    cards.push(el("li", { class: other ? "against" : null }, head, el("p", { lang: "en" }, item.summary),
      shares.length ? list(shares.map(([tag, share]) => [known(`tag_${tag}`) ? `tag_${tag}` : tag, percent(share)])) : null,
      more.length ? el("details", { class: "small" }, el("summary", { class: "soft" }, say("more")), el("dl", {}, more.slice(0, 40).map(([k, v]) =>
        [el("dt", {}, k.replaceAll("_", " ")), el("dd", {}, (typeof v === "object" ? JSON.stringify(v) : String(v)).slice(0, 2000))]))) : null));
  }
  return el("section", { class: "why" }, el("h3", {}, say("evidence")), cards.length ? el("ul", { class: "evidence" }, cards) : el("p", { class: "soft" }, say("noEvidence")));
}

function facts(row) {
  const pairs = [["kind", say(`kind_${row.kind}`)]];
  if (row.width) pairs.push(["size", say("px", { w: row.width, h: row.height })]);
  pairs.push(["modelName", row.model]);
  if (finite(row.timings?.total_s)) pairs.push(["took", say("seconds", { s: row.timings.total_s.toFixed(2) })]);
  if (row.sha256) pairs.push(["hash", el("span", { class: "hash" }, row.sha256)]);
  const notes = row.notes.filter((note) => !/model|adapter/i.test(note));
  if (notes.length) pairs.push(["notes", el("ul", { class: "notes", lang: "en" }, notes.map((note) => el("li", {}, note)))]);
  return el("section", { class: "below" }, el("details", {}, el("summary", {}, el("b", {}, say("facts"))), list(pairs)));
}

/** Link, report, JSON, Markdown, delete; of one file (row.file) or, without a row, of the whole job. */
export function actions(row, view) {
  const query = row ? `?file=${row.file}` : "", stem = (row?.name ?? "ivdetect").replace(/[^\w.-]+/g, "_");
  const said = el("span", { role: "status", class: "soft small" });
  const get = (kind, ending) => el("button", { type: "button", "data-get": ending, onclick: async () => {
    try { save(await getBlob(`${view.base}/${kind}${query}`), `${stem}.${ending}`); } catch (error) { view.failed(error); }
  } }, say(ending === "html" ? "report" : ending === "md" ? "markdown" : "json"));
  const copy = el("button", { type: "button", class: "copy", onclick: async () => {
    try { await navigator.clipboard.writeText(view.link); said.textContent = say("copied"); } catch { prompt(say("copyLink"), view.link); }
  } }, say("copyLink"));
  const forget = el("button", { type: "button", onclick: async () => {
    try { await remove(view.base); view.gone(); } catch (error) { view.failed(error); }
  } }, say("forget"));
  return el("div", { class: "below" }, el("div", { class: "actions row" }, copy, get("report", "html"), get("report.json", "json"), get("report.md", "md"), forget, said));
}

/** The list of a batch; a click opens one. */
export function batchList(rows, view, open) {
  const counts = { fake: 0, unsure: 0, authentic: 0, failed: 0 };
  rows.forEach((row) => counts[outcome(row)]++);
  const rank = { fake: 0, unsure: 1, failed: 2, authentic: 3 };
  const order = [...rows].sort((a, b) => rank[outcome(a)] - rank[outcome(b)] || (b.probability ?? 0) - (a.probability ?? 0));
  const items = order.map((row) => {
    const thumb = el(row.error == null ? "img" : "span", { class: "thumb", alt: row.error == null ? "" : null });
    if (row.error == null) view.thumb(row, thumb);
    return el("li", { class: outcome(row) }, el("button", { type: "button", "aria-label": `${say("open", { name: row.name })}: ${headline(row)}`, onclick: () => open(row) }, thumb,
      el("span", {}, el("span", { class: "name" }, row.name), el("span", { class: "what" }, headline(row))),
      el("span", { class: "num" }, row.error == null && row.calibrated ? percent(row.probability) : "")));
  });
  return el("section", { class: "panel" }, el("h2", { tabindex: "-1" }, say("batch", { n: rows.length })), el("p", { class: "soft" }, say("countLine", counts)), el("ul", { class: "list" }, items));
}
