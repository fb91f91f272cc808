// What the AI SDK makes of a relay, with its defaults: it leaves the items of answers at the server and names them.
// Run as: node ai.mjs, with RELAY_URL, RELAY_KEY and RELAY_MODEL in the environment; prints one JSON line.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const calls = [];
async function recorded(url, options) {
  const response = await fetch(url, options);
  const input = JSON.parse(options.body).input;
  calls.push({ status: response.status, items: input.map((item) => item.type ?? item.role) });
  return response;
}
const openai = createOpenAI({ baseURL: process.env.RELAY_URL, apiKey: process.env.RELAY_KEY, fetch: recorded });
const options = {
  model: openai(process.env.RELAY_MODEL),
  tools: {
    get_weather: tool({ description: "w", inputSchema: z.object({ city: z.string() }), execute: () => "sunny" }),
  },
  stopWhen: stepCountIs(3),
  maxRetries: 0,
  providerOptions: { openai: { reasoningEffort: "high", reasoningSummary: "auto", forceReasoning: true } },
};
const messages = [{ role: "user", content: "Please get_weather" }];
const first = streamText({ ...options, messages });
const text = await first.text;
messages.push(...(await first.response).messages, { role: "user", content: "and now?" });
const second = await generateText({ ...options, messages });
console.log(JSON.stringify({ text, again: second.text, calls }));
