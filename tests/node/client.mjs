// OpenAI's own client against the gateway: `node client.mjs <folder with node_modules>`, address and key by the client's
// own environment variables. Prints one JSON object; each value is what the client made of an answer.
import { createRequire } from "node:module";

const OpenAI = createRequire(`${process.argv[2]}/`)("openai");
const client = new OpenAI({ maxRetries: 0 });
const model = "fast";
const messages = [{ role: "user", content: "Name three winds." }];

async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    const { name, status, code, param, type } = error;
    return { name: error.constructor.name || name, status, code, param, type, requestID: error.requestID };
  }
  return null;
}

async function collected(stream, text) {
  let whole = "";
  let last = null;
  for await (const event of stream) {
    whole += text(event) ?? "";
    last = event;
  }
  return { text: whole, last };
}

const chat = await client.chat.completions.create({ model, messages });
const chatStream = await collected(
  await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } }),
  (chunk) => chunk.choices[0]?.delta.content,
);
const response = await client.responses.create({ model, input: "Say hello." }).withResponse();
const responseStream = await collected(
  await client.responses.create({ model, input: "Say hello again.", stream: true }),
  (event) => (event.type === "response.output_text.delta" ? event.delta : ""),
);
const helper = await client.responses.stream({ model, input: "And once more." }).finalResponse();
const embedding = await client.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] });
const moderation = await client.moderations.create({ input: "a kind word" });
const models = await client.models.list();

console.log(
  JSON.stringify({
    chat: { text: chat.choices[0].message.content, usage: chat.usage, requestID: chat._request_id },
    chatStream: { text: chatStream.text, usage: chatStream.last.usage },
    response: {
      text: response.data.output_text,
      status: response.data.status,
      requestID: response.request_id,
      model: response.response.headers.get("x-prodkit-model"),
    },
    responseStream: { text: responseStream.text, last: responseStream.last.type },
    helper: { status: helper.status, text: helper.output.find((item) => item.type === "message").content[0].text },
    embedding: { numbers: embedding.data.map((each) => each.embedding.length), usage: embedding.usage },
    moderation: moderation.results[0].flagged,
    models: models.data.map((each) => each.id),
    refusals: {
      model: await refusal(client.responses.create({ model: "gpt-0", input: "hi" })),
      key: await refusal(new OpenAI({ maxRetries: 0, apiKey: "prodkit_no" }).responses.create({ model, input: "hi" })),
      tool: await refusal(client.responses.create({ model, input: "hi", tools: [{ type: "web_search" }] })),
      path: await refusal(client.files.list()),
    },
  }),
);
