// What the JavaScript SDK makes of a relay: each case is one name, prints one JSON line and asserts nothing.
// Run as: node cases.mjs CASE, with RELAY_URL and RELAY_KEY in the environment.
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({
  apiKey: process.env.RELAY_KEY,
  baseURL: process.env.RELAY_URL,
  maxRetries: 0,
  timeout: 20_000,
});
const model = process.env.RELAY_MODEL;
const hello = [{ role: "user", content: "hello relay" }];
const both = [{ role: "user", content: "Please get_weather and get_time" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const names = ["get_weather", "get_time"];
const tools = names.map((name) => ({ type: "function", function: { name, parameters } }));
const flatTools = names.map((name) => ({ type: "function", name, parameters, strict: true }));
const Forecast = z.object({ city: z.string(), degrees: z.number().int(), chances: z.array(z.number()) });

async function gathered(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

const said = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");

const cases = {
  async chat() {
    const { data, response, request_id } = await client.chat.completions.create({ model, messages: hello }).withResponse();
    const choice = data.choices[0];
    return { text: choice.message.content, finish: choice.finish_reason, usage: data.usage, request_id,
      header: response.headers.get("request-id") };
  },
  async stream() {
    const whole = await client.chat.completions.create({ model, messages: hello });
    const without = await gathered(await client.chat.completions.create({ model, messages: hello, stream: true }));
    const withUsage = await gathered(await client.chat.completions.create({
      model, messages: hello, stream: true, stream_options: { include_usage: true },
    }));
    return { whole: whole.choices[0].message.content, without: said(without), withUsage: said(withUsage),
      choices: without.map((chunk) => chunk.choices.length), usage: withUsage.at(-1).usage, wholeUsage: whole.usage };
  },
  async tools() {
    const messages = [...both];
    const first = (await client.chat.completions.create({ model, messages, tools })).choices[0].message;
    messages.push(first);
    first.tool_calls.forEach((call, at) =>
      messages.push({ role: "tool", tool_call_id: call.id, content: `result ${at}` }));
    const second = await client.chat.completions.create({ model, messages, tools });
    const runner = client.chat.completions.stream({ model, messages: both, tools });
    const streamed = await runner.finalChatCompletion();
    return { names: first.tool_calls.map((call) => call.function.name),
      whole: first.tool_calls.map((call) => call.function.arguments),
      streamed: streamed.choices[0].message.tool_calls.map((call) => call.function.arguments),
      text: second.choices[0].message.content };
  },
  async run_tools() {
    const called = [];
    const functions = names.map((name) => ({
      type: "function",
      function: { name, parameters, parse: JSON.parse, function: (given) => { called.push(name); return `${name} of ${given.city}`; } },
    }));
    const runner = client.chat.completions.runTools({ model, messages: both, tools: functions });
    return { text: await runner.finalContent(), called };
  },
  async parse() {
    const format = zodResponseFormat(Forecast, "forecast");
    const answer = await client.chat.completions.parse({ model, messages: hello, response_format: format });
    const response = await client.responses.parse({
      model, input: "hello", text: { format: zodTextFormat(Forecast, "forecast") },
    });
    return { chat: answer.choices[0].message.parsed, responses: response.output_parsed };
  },
  async responses() {
    const whole = await client.responses.create({ model, input: "hello relay" });
    const events = await gathered(await client.responses.create({ model, input: "hello relay", stream: true }));
    const stream = client.responses.stream({ model, input: both, tools: flatTools });
    const final = await stream.finalResponse();
    const calls = final.output.filter((item) => item.type === "function_call");
    const outputs = calls.map((call) => ({ type: "function_call_output", call_id: call.call_id, output: call.name }));
    const second = await client.responses.create({ model, input: [...both, ...final.output, ...outputs], tools: flatTools });
    return { whole: whole.output_text, streamed: events.at(-1).response.output[0].content[0].text, last: events.at(-1).type,
      calls: calls.map((call) => [call.name, JSON.parse(call.arguments)]), second: second.output_text };
  },
  async models() {
    const ids = (await gathered(await client.models.list())).map((one) => one.id);
    return { listed: ids.includes(model), one: (await client.models.retrieve(model)).id };
  },
  async error() {
    try {
      await client.chat.completions.create({ model, messages: hello });
      return { name: "none" };
    } catch (error) {
      return { name: error.constructor.name, status: error.status, type: error.type, code: error.code,
        message: error.message, request_id: error.requestID };
    }
  },
  async broken_stream() {
    const chunks = [];
    try {
      for await (const chunk of await client.chat.completions.create({ model, messages: hello, stream: true }))
        chunks.push(chunk);
      return { name: "none" };
    } catch (error) {
      return { name: error.constructor.name, message: error.message, type: error.type, text: said(chunks),
        finish: chunks.map((chunk) => chunk.choices[0].finish_reason).filter(Boolean) };
    }
  },
  async long_stream() {
    const chunks = await gathered(await client.chat.completions.create({ model, messages: hello, max_tokens: 5000, stream: true }));
    return { text: said(chunks) };
  },
};

console.log(JSON.stringify(await cases[process.argv[2]]()));
