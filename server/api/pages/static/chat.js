// One prompt, answered in several ways one after the other.

import { ask, byId, count, errorOf, h, linesOf, seconds } from "/pages/page.js";

const NAMES = { "": "The router's choice", direct: "A, direct", "one-pass": "B, one pass", "map-reduce": "C, map-reduce" };

let stopping = null;

async function start() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  byId("stop").addEventListener("click", () => stopping?.abort());
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey) byId("form").requestSubmit();
  });
  const response = await ask("/api/tags");
  const { models } = response.ok ? await response.json() : { models: [] };
  byId("model").replaceChildren(...models.map((model) => h("option", {}, model.name)));
}

async function run() {
  const ways = [...document.querySelectorAll("input[name=way]:checked")].map((box) => box.value);
  if (!ways.length) {
    byId("note").textContent = "Choose at least one way.";
    return;
  }
  stopping = new AbortController();
  busy(true);
  const columns = ways.map((way) => column(NAMES[way]));
  byId("answers").replaceChildren(...columns.map((one) => one.element));
  try {
    for (const [place, way] of ways.entries()) await answer(columns[place], way, stopping.signal);
  } finally {
    busy(false);
  }
}

function busy(yes) {
  byId("run").disabled = yes;
  byId("stop").disabled = !yes;
  byId("note").textContent = yes ? "Running …" : "Done.";
}

function column(name) {
  const text = h("pre", { class: "answer" });
  const figures = h("p", { class: "more" }, "waiting …");
  return { text, figures, element: h("article", { class: "card" }, h("h3", {}, name), figures, text) };
}

async function answer(into, way, signal) {
  const begun = performance.now();
  let first = null;
  try {
    const response = await ask("/api/chat", {
      method: "POST",
      signal,
      headers: way ? { "X-LLM-Optimizer-Policy": way } : {},
      body: JSON.stringify(request()),
    });
    if (!response.ok) throw new Error(await errorOf(response));
    into.figures.textContent = "reading …";
    for await (const line of linesOf(response)) {
      if (!line) continue;
      const chunk = JSON.parse(line);
      if (chunk.error) throw new Error(chunk.error);
      const said = (chunk.message.thinking ?? "") + chunk.message.content;
      if (said && first === null) first = (performance.now() - begun) / 1000;
      into.text.append(said);
      if (chunk.done) into.figures.replaceChildren(...figuresOf(chunk, first, (performance.now() - begun) / 1000));
    }
  } catch (error) {
    into.figures.textContent = error.name === "AbortError" ? "stopped" : error.message;
    into.figures.className = "more error";
  }
}

function request() {
  const system = byId("system").value.trim();
  return {
    model: byId("model").value,
    messages: [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: byId("prompt").value }],
    options: { num_predict: Number(byId("most").value), temperature: Number(byId("temperature").value) },
  };
}

function figuresOf(chunk, first, all) {
  const done = chunk.llm_optimizer;
  const told = [
    h("span", { class: `way way-${done.strategy}` }, done.strategy),
    ` ${count(done.tokens_received)} → ${count(done.tokens_sent)} tokens, ${count(done.tokens_cached)} cached. `,
    `First token ${seconds(first)}, in all ${seconds(all)}, ${count(chunk.eval_count)} written. `,
  ];
  if (done.helper_duration) told.push(`Helper ${seconds(done.helper_duration / 1e9)}, ${count(done.summaries)} summaries. `);
  told.push(h("em", {}, done.fallback ? `The helper failed: ${done.fallback}` : done.reason));
  return told;
}

start();
