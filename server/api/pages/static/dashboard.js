// Draws each event of the stream anew. What is open stays open: rows are told apart by the request's id.

import { ask, byId, count, errorOf, h, linesOf, mib, percent, seconds } from "/pages/page.js";

const AGAIN_MS = 2000;
const SPEEDS_KEPT = 120;
const ROWS = 30;

const state = { before: null, recent: [], speeds: [], open: new Set() };

async function watch() {
  for (;;) {
    try {
      const response = await ask("/dashboard/events");
      if (!response.ok) throw new Error(await errorOf(response));
      connected(true);
      for await (const line of linesOf(response)) {
        if (line.startsWith("data: ")) draw(JSON.parse(line.slice(6)));
      }
      connected(false, "the service ended the stream");
    } catch (error) {
      connected(false, error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

function connected(live, why = "") {
  const badge = byId("connection");
  badge.textContent = live ? "live" : "reconnecting …";
  badge.title = why;
  badge.className = live ? "badge good" : "badge bad";
}

function draw(event) {
  if (event.recent) state.recent = event.recent;
  const speeds = speedsOf(event);
  state.speeds = [...state.speeds, total(speeds)].slice(-SPEEDS_KEPT);
  byId("version").textContent = event.version;
  byId("tiles").replaceChildren(...tiles(event));
  byId("cards").replaceChildren(...cards(event.gpu));
  byId("models").replaceChildren(modelsTable(event.gpu, speeds));
  byId("requests").replaceChildren(requestsTable(event.under_way, state.recent));
  byId("faults").replaceChildren(faults(event.gpu.recent_faults));
  state.before = event;
}

const total = (speeds) => [...speeds.values()].reduce((sum, speed) => sum + speed, 0);

/** Tokens generated a second by each model since the event before. */
function speedsOf(event) {
  const before = state.before;
  const speeds = new Map();
  if (!before) return speeds;
  const passed = (Date.parse(event.at) - Date.parse(before.at)) / 1000;
  for (const model of [...event.gpu.models, ...event.gpu.remote]) {
    const earlier = [...before.gpu.models, ...before.gpu.remote].find((one) => one.name === model.name);
    const made = earlier ? model.figures.generated_tokens - earlier.figures.generated_tokens : 0;
    if (passed > 0 && made >= 0) speeds.set(model.name, made / passed);
  }
  return speeds;
}

function tiles(event) {
  const answered = state.recent.map((record) => record.work).filter((work) => work.first_token_s !== null);
  const firsts = answered.map((work) => work.first_token_s).sort((a, b) => a - b);
  const received = answered.reduce((sum, work) => sum + (work.tokens_received ?? 0), 0);
  const sent = answered.reduce((sum, work) => sum + (work.tokens_sent ?? 0), 0);
  const cached = answered.reduce((sum, work) => sum + (work.cached_tokens ?? 0), 0);
  const everywhere = [...event.gpu.models, ...event.gpu.remote];
  const running = everywhere.reduce((sum, model) => sum + model.running, 0);
  const queued = everywhere.reduce((sum, model) => sum + model.queued, 0);
  return [
    tile("Tokens a second", state.speeds.length ? Math.round(state.speeds.at(-1)).toString() : "–", sparkline(state.speeds)),
    tile("First token, median", firsts.length ? seconds(firsts[firsts.length >> 1]) : "–", `of the last ${firsts.length} answers`),
    tile("Running", count(running), `${count(queued)} waiting`),
    tile("Sent of received", percent(sent, received), `${count(received)} → ${count(sent)} tokens`),
    tile("Found in the cache", percent(cached, sent), `${count(cached)} tokens not read again`),
  ];
}

const tile = (name, value, more) =>
  h("div", { class: "tile" }, h("h3", {}, name), h("p", { class: "value" }, value), h("p", { class: "more" }, more));

function sparkline(values) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const most = Math.max(1, ...values);
  const points = values.map((value, place) => `${place + SPEEDS_KEPT - values.length},${30 - (28 * value) / most}`);
  svg.setAttribute("viewBox", `0 0 ${SPEEDS_KEPT} 32`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "sparkline");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `the last two minutes, at most ${Math.round(most)} tokens a second`);
  const line = document.createElementNS(space, "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return svg;
}

function cards(gpu) {
  const drawn = gpu.devices.map(card);
  if (!drawn.length) drawn.push(h("p", { class: "notice" }, `No NVIDIA card: ${gpu.reason ?? "none was found"}`));
  return drawn;
}

function card(device) {
  const facts = [
    ["Load", device.utilisation_percent === null ? "–" : `${device.utilisation_percent} %`],
    ["Temperature", device.temperature_c === null ? "–" : `${device.temperature_c} °C`],
    ["Power", watts(device.power_w, device.power_limit_w)],
    ["Clock", device.clock_mhz === null ? "–" : `${count(device.clock_mhz)} MHz`],
  ];
  return h("article", { class: "card" },
    h("h3", {}, device.name ?? `card ${device.index}`, " ", device.fault ? h("span", { class: "badge bad" }, device.fault) : marginBadge(device.margin)),
    device.models.length ? h("p", { class: "more" }, `${device.device}: ${device.models.join(", ")}`) : null,
    memoryBar(device),
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    slowed(device.clock_reasons),
  );
}

const watts = (now, limit) => (now === null ? "–" : `${Math.round(now)} W${limit === null ? "" : ` of ${Math.round(limit)}`}`);

function marginBadge(margin) {
  if (margin === null) return null;
  if (margin.fault) return h("span", { class: "badge bad" }, margin.fault);
  const calm = margin.level === "calm";
  return h("span", { class: calm ? "badge good" : "badge bad" }, calm ? "room enough" : `short of memory: ${margin.level}`);
}

function slowed(reasons) {
  const told = (reasons ?? []).filter((reason) => reason !== "idle");
  return told.length ? h("p", { class: "badge warn" }, `slowed: ${told.join(", ")}`) : null;
}

function memoryBar(device) {
  const whole = device.memory_total_bytes;
  if (!whole) return h("p", {}, "memory unknown");
  const parts = [
    ["ours", device.memory_own_bytes],
    ["others", device.memory_others_bytes],
    ["free", device.memory_free_bytes],
  ].filter(([, bytes]) => bytes !== null && bytes !== undefined);
  const bar = h("div", { class: "bar", role: "img", "aria-label": parts.map(([name, bytes]) => `${name} ${mib(bytes)}`).join(", ") });
  for (const [name, bytes] of parts) {
    const part = h("span", { class: name });
    part.style.width = `${(100 * bytes) / whole}%`;
    bar.append(part);
  }
  const plan = device.plan?.planned_bytes;
  if (plan) {
    const mark = h("span", { class: "plan", title: `planned: ${mib(plan)}` });
    mark.style.left = `${Math.min(100, (100 * plan) / whole)}%`;
    bar.append(mark);
  }
  const planned = plan ? [["plan", plan]] : [];
  return h("div", {}, bar, h("p", { class: "legend" }, [...parts, ...planned].map(([name, bytes]) => h("span", { class: name }, `${name} ${mib(bytes)}`))));
}

function modelsTable(gpu, speeds) {
  const loading = Object.entries(gpu.loading).map(([name, part]) =>
    h("tr", {}, cell("Model", name), cell("State", `loading, ${Math.round(100 * part)} %`)));
  const rows = gpu.models.map((model) => h("tr", {},
    cell("Model", h("strong", {}, model.name), model.role ? ` ${model.role}` : ""),
    cell("State", model.fault ? h("span", { class: "badge bad" }, model.fault) : stays(model)),
    cell("Device", model.device),
    cell("Context", `${count(model.context_tokens)}${model.reduced ? " (reduced)" : ""}`),
    cell("Answers", `${model.running} of ${model.slots}${model.queued ? `, ${model.queued} waiting` : ""}`),
    cell("Tokens a second", speeds.has(model.name) ? Math.round(speeds.get(model.name)).toString() : "–"),
    cell("Kept", `${count(model.kept_tokens)} tokens`),
    cell("", h("button", { click: () => keep(model.name, 0) }, "Unload"), " ", h("button", { click: () => keep(model.name, -1) }, "Keep")),
  ));
  const elsewhere = gpu.remote.map((model) => h("tr", {},
    cell("Model", h("strong", {}, model.name), model.role ? ` ${model.role}` : ""),
    cell("State", model.fault ? h("span", { class: "badge bad" }, model.fault) : model.is_up ? "answers" : "not asked yet"),
    cell("Device", model.host),
    cell("Context", count(model.context_tokens)),
    cell("Answers", `${model.running} of ${model.slots}${model.queued ? `, ${model.queued} waiting` : ""}`),
    cell("Tokens a second", speeds.has(model.name) ? Math.round(speeds.get(model.name)).toString() : "–"),
    cell("Kept", "–"),
    cell("", ""),
  ));
  return table("models", ["Model", "State", "Device", "Context", "Answers", "Tokens a second", "Kept", ""], [...rows, ...elsewhere, ...loading], "No model is loaded.");
}

function stays(model) {
  if (!model.expires_at) return "stays loaded";
  const left = (Date.parse(model.expires_at) - Date.now()) / 1000;
  return left > 0 ? `leaves in ${left < 90 ? seconds(left) : `${Math.round(left / 60)} min`}` : "leaves when idle";
}

/** 0 unloads a model once it is idle, -1 keeps it until it is told otherwise. */
async function keep(model, keepAlive) {
  const body = JSON.stringify({ model, keep_alive: keepAlive });
  const response = await ask("/api/generate", { method: "POST", body });
  byId("model-note").textContent = response.ok ? "" : await errorOf(response);
}

function requestsTable(underWay, recent) {
  const now = Date.now();
  const running = underWay.map((record) => row(record, h("span", { class: "badge" }, "running"), (now - Date.parse(record.arrived_at)) / 1000));
  const ended = recent.slice(0, ROWS).map((record) => row(record, ending(record), record.total_s));
  const heads = ["Arrived", "Model", "Way", "Tokens", "Cached", "Written", "First token", "In all", "End"];
  return table("requests", heads, [...running, ...ended].flat(), "Nobody has asked yet.");
}

function row(record, end, total_s) {
  const work = record.work;
  const open = state.open.has(record.id);
  const toggle = () => {
    if (state.open.has(record.id)) state.open.delete(record.id);
    else state.open.add(record.id);
    byId("requests").replaceChildren(requestsTable(state.before.under_way, state.recent));
  };
  const shown = h("tr", {},
    cell("Arrived", h("button", { class: "link", "aria-expanded": String(open), click: toggle, title: "What was done with it" }, new Date(record.arrived_at).toLocaleTimeString())),
    cell("Model", work.model ?? "–"),
    cell("Way", way(work)),
    cell("Tokens", work.tokens_received === null ? "–" : `${work.tokens_estimated ? "about " : ""}${count(work.tokens_received)} → ${count(work.tokens_sent)}`),
    cell("Cached", percent(work.cached_tokens ?? 0, work.tokens_sent)),
    cell("Written", count(work.generated_tokens)),
    cell("First token", seconds(work.first_token_s)),
    cell("In all", seconds(total_s)),
    cell("End", end),
  );
  return open ? [shown, h("tr", { class: "details" }, h("td", { colspan: 9 }, details(record)))] : [shown];
}

function way(work) {
  if (!work.strategy && !work.planned) return "–";
  const name = work.strategy ?? work.planned;
  return h("span", { class: `way way-${name}` }, name, work.fallback ? ` (${work.planned} failed)` : "", work.shortened.length ? " shortened" : "");
}

const GOOD = new Set(["ok", "length"]);

function ending(record) {
  return h("span", { class: GOOD.has(record.ending) ? "badge good" : record.ending === "cancelled" ? "badge" : "badge bad" }, record.ending.replaceAll("_", " "));
}

function details(record) {
  const work = record.work;
  const facts = [
    ["request", `${record.id}${record.route ? `, ${record.route}` : ""}`],
    ["why", work.reason],
    ["helper failed", work.fallback],
    ["error", record.error],
    ["helper", work.helper_s ? `${seconds(work.helper_s)}, ${count(work.summaries)} summaries, ${count(work.summaries_reused)} of earlier turns` : null],
    ["summed up", work.summarised_messages ? `${count(work.summarised_messages)} messages, ${count(work.summarised_characters)} characters` : null],
    ["left out", work.dropped_messages ? `${count(work.dropped_messages)} of the oldest messages` : null],
    ["waited", work.queue_s === null ? null : `${seconds(work.queue_s)} in the queue, ${seconds(work.load_s)} for the model`],
    ["guessed", work.guessed_tokens ? `${count(work.accepted_tokens)} of ${count(work.guessed_tokens)} tokens were right` : null],
  ].filter(([, value]) => value);
  return h("div", {},
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    work.shortened.length
      ? h("ul", {}, work.shortened.map((item) => h("li", {}, `message ${item.message}: ${item.how}, ${count(item.characters)} → ${count(item.characters_sent)} characters `, h("a", { href: `/api/router/original/${item.original}` }, "original"))))
      : null,
  );
}

function faults(told) {
  if (!told.length) return h("p", { class: "notice" }, "None.");
  return h("ul", { class: "faults" }, told.map((fault) => h("li", {}, h("time", { datetime: fault.at }, new Date(fault.at).toLocaleString()), ` ${fault.where}: ${fault.text}`)));
}

function table(name, heads, rows, empty) {
  if (!rows.length) return h("p", { class: "notice" }, empty);
  return h("table", { class: name }, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))), h("tbody", {}, rows));
}

const cell = (head, ...children) => h("td", { "data-head": head, class: children[0] === "–" ? "unknown" : null }, children);

watch();
