// What both pages share: elements, numbers, and requests that bring the API key along.

const KEY = "llm-optimizer-key";

/** An element with attributes and children; text is never read as markup. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export const count = (number) => (number === null || number === undefined ? "–" : number.toLocaleString("en"));

export const mib = (bytes) => (bytes === null || bytes === undefined ? "–" : `${count(Math.round(bytes / 2 ** 20))} MiB`);

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 100 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

export const percent = (part, whole) => (whole ? `${Math.round((100 * part) / whole)} %` : "–");

/** fetch with the key of this tab; asks for one where the service wants it. */
export async function ask(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    const response = await fetch(path, { ...options, headers });
    if (response.status !== 401) return response;
    await askForKey();
  }
}

function askForKey() {
  const dialog = byId("key-dialog") ?? keyDialog();
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, byId("key").value.trim());
      resolve();
    }, { once: true });
  });
}

function keyDialog() {
  const dialog = h("dialog", { id: "key-dialog" },
    h("form", { method: "dialog" },
      h("label", { for: "key" }, "This service asks for an API key. It stays in this tab."),
      h("input", { id: "key", type: "password", autocomplete: "off", required: true }),
      h("button", {}, "Go on")));
  document.body.append(dialog);
  return dialog;
}

/** The lines of a response's body, as they come. */
export async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
  if (rest) yield rest;
}

/** The text of an error answer, whatever its form. */
export async function errorOf(response) {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return typeof error === "string" ? error : error.message;
  } catch {
    return text || `status ${response.status}`;
  }
}
