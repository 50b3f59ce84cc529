// Puts the real `ollama` package to work. Arguments: the server's address, a model whose template knows tools.
// Prints a line for each check; ends with 1 and the reason when one fails.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Ollama } from "ollama";

const [host, model] = process.argv.slice(2);
const client = new Ollama({ host });
const messages = [{ role: "user", content: "Define gravity." }];
const few = { num_predict: 4, temperature: 0 };
const weather = {
  type: "object",
  properties: { city: { enum: ["Paris"] } },
  required: ["city"],
  additionalProperties: false,
};
const tool = {
  type: "function",
  function: { name: "get_weather", description: "The weather of a city", parameters: weather },
};

async function partsOf(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

const slots = async () => (await client.ps()).models.find((item) => item.name === model).slots;

const checks = {
  async chat() {
    const answer = await client.chat({ model, messages, options: few });
    assert.equal(answer.model, model);
    assert.equal(answer.message.role, "assistant");
    assert.ok(answer.message.content);
    assert.equal(answer.done, true);
    assert.equal(answer.done_reason, "length");
    assert.equal(answer.eval_count, 4);
    assert.ok(answer.total_duration > 0);
  },

  async stream() {
    const parts = await partsOf(await client.chat({ model, messages, options: few, stream: true }));
    const whole = await client.chat({ model, messages, options: few });
    assert.equal(parts.map((part) => part.message.content).join(""), whole.message.content);
    assert.deepEqual(parts.map((part) => part.done), [...Array(parts.length - 1).fill(false), true]);
  },

  async tools() {
    // The schema stands in for a model that is good at calling tools.
    const format = {
      type: "object",
      properties: { name: { const: "get_weather" }, arguments: weather },
      required: ["name", "arguments"],
      additionalProperties: false,
    };
    const ask = { model, messages, tools: [tool], format, options: { num_predict: 60 } };
    const streamed = await partsOf(await client.chat({ ...ask, stream: true }));
    const calls = streamed.flatMap((part) => part.message.tool_calls ?? []);
    const { message } = await client.chat(ask);
    for (const found of [calls, message.tool_calls]) {
      assert.equal(found.length, 1);
      assert.deepEqual(found[0].function, { index: 0, name: "get_weather", arguments: { city: "Paris" } });
    }
    const result = { role: "tool", content: "Rain.", tool_name: "get_weather" };
    const after = await client.chat({ model, messages: [...messages, message, result], tools: [tool], options: few });
    assert.equal(after.done, true);
  },

  async format() {
    const schema = {
      type: "object",
      properties: { warm: { type: "boolean" } },
      required: ["warm"],
      additionalProperties: false,
    };
    const answer = await client.chat({ model, messages, format: schema, options: { num_predict: 30 } });
    assert.equal(typeof JSON.parse(answer.message.content).warm, "boolean");
  },

  async generate() {
    const ask = { model, prompt: "Define gravity.", options: few };
    const parts = await partsOf(await client.generate({ ...ask, stream: true }));
    const whole = await client.generate(ask);
    assert.equal(parts.map((part) => part.response).join(""), whole.response);
    assert.ok(whole.context.length > 4);
  },

  async list() {
    const { models } = await client.list();
    const item = models.find((candidate) => candidate.name === model);
    assert.equal(item.details.format, "gguf");
    assert.ok(item.size > 0);
    assert.ok(!Number.isNaN(Date.parse(item.modified_at)));
  },

  async show() {
    const shown = await client.show({ model });
    assert.ok(shown.capabilities.includes("tools"));
    assert.equal(shown.model_info["general.architecture"], "llama");
  },

  async ps() {
    const { models } = await client.ps();
    const item = models.find((candidate) => candidate.name === model);
    assert.equal(item.context_length, 8192);
    assert.ok(Date.parse(item.expires_at) > Date.now());
  },

  async errors() {
    const unknown = { name: "ResponseError", status_code: 404, message: "model 'nothing' not found" };
    await assert.rejects(client.chat({ model: "nothing", messages }), unknown);
    await assert.rejects(client.chat({ model: "nothing", messages, stream: true }), unknown);
    const bad = client.chat({ model, messages, options: { num_predict: "many" } });
    await assert.rejects(bad, { name: "ResponseError", status_code: 400 });
  },

  async abort() {
    const format = { type: "array", items: { type: "integer" }, minItems: 1000 };
    const endless = { model, messages, format, options: { num_predict: 4000 }, stream: true };
    const stream = await client.chat(endless);
    const reading = async () => {
      for await (const part of stream) if (part.message.content) stream.abort();
    };
    await assert.rejects(reading(), { name: "AbortError" });
    for (let tries = 0; (await slots()).running > 0; tries += 1) {
      assert.ok(tries < 600, "the slot is still taken 30 s after the client has hung up");
      await sleep(50);
    }
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    console.error(`failed ${name}: ${error.stack}`);
    process.exitCode = 1;
  }
}
