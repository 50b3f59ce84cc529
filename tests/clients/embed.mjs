// Vectors of texts by the real `ollama` package. Arguments: the server's address, a model that gives vectors.
import assert from "node:assert/strict";
import { Ollama } from "ollama";

const [host, model] = process.argv.slice(2);
const client = new Ollama({ host });
const { embeddings, prompt_eval_count: count } = await client.embed({ model, input: ["one", "another"] });
assert.equal(embeddings.length, 2);
assert.ok(Math.abs(Math.hypot(...embeddings[0]) - 1) < 1e-4);
assert.notDeepEqual(embeddings[0], embeddings[1]);
assert.ok(count > 2);
const { embedding } = await client.embeddings({ model, prompt: "one" });
assert.ok(embedding.every((number, place) => Math.abs(number - embeddings[0][place]) < 5e-3));
console.log("ok");
