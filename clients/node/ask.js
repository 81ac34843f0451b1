// Asks Polysight a question about a picture and prints one JSON object.
//
//     npm install && npm run generate
//     node ask.js 127.0.0.1:50060 picture.jpg "How many people are in the picture?"

import { readFile } from "node:fs/promises";
import process from "node:process";

import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { Expert, Outcome, PolysightService } from "./gen/polysight/gateway/v1/polysight_pb.js";
import { Role } from "./gen/polysight/llm/v1/generation_pb.js";

const [address, picture, question] = process.argv.slice(2);
if (question === undefined) {
  console.error("usage: node ask.js HOST:PORT PICTURE QUESTION");
  process.exit(2);
}

const polysight = createClient(
  PolysightService,
  createGrpcTransport({ baseUrl: `http://${address}` }),
);
const request = {
  image: { data: await readFile(picture) },
  turns: [{ role: Role.USER, text: question }],
};

const told = { experts: {}, verbalization: "", tokens: 0, answer: "" };
for await (const { event } of polysight.answer(request, { timeoutMs: 120_000 })) {
  switch (event.case) {
    case "expertReport":
      told.experts[Expert[event.value.expert].toLowerCase()] = Outcome[event.value.outcome].toLowerCase();
      break;
    case "verbalization":
      told.verbalization = event.value.text;
      break;
    case "token":
      told.tokens += 1;
      break;
    case "done":
      told.answer = event.value.text;
      break;
  }
}
console.log(JSON.stringify(told));
